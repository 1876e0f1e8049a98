"""The files of images that jobs name, from Redis into pixels: checked, bounded in size, number and time. No engine and
no prompt enters here."""
