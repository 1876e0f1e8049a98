"""The command that scores rows of a file."""
