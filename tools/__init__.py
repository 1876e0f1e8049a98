"""Programs that set up, document and release this project. Nothing of a wheel is here."""
