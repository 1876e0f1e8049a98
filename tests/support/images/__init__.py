"""Small images, and a stand-in for what reads them beside texts."""
