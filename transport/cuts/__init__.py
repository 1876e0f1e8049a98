"""Answers groups of a batch that nobody needs any more, for producers and workers alike. Never a batch as a whole."""
