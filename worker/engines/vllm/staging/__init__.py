"""The next checkpoint in memory that a worker shares with its engines' processes, so that a swap reads no file.

One copy serves all replicas and ranks. Knows no version, and decides nothing about a swap.
"""
