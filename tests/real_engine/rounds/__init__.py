"""Weights that a trainer sends to workers with the real engine, some of which are killed."""
