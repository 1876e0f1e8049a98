"""A worker until it serves: its flags, its Redis, its first report. Nothing here runs afterwards."""
