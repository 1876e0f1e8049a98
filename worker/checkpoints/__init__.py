"""Brings the files of a checkpoint to where engines read them. Knows no version that is served, and no engine."""
