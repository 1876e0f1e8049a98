"""Everybody is killed in every phase of a version's way to the workers, under load; an audit says what became of it."""
