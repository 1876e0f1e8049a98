"""What a worker does until it serves: read flags, check Redis, report itself. Nothing here runs afterwards."""
