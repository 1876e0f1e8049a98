"""Workers as processes that halt, count or are forked where a test says so."""
