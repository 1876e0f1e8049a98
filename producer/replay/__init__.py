"""Finished and dead jobs, selected and queued again or compared. Never changes the originals, prints nothing."""
