"""Keeps what running completions have so far, so that another delivery goes on from there. It samples nothing."""
