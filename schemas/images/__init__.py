"""Files of images: what their headers say, and which may be sent. Nothing here decodes a pixel or reads a file."""
