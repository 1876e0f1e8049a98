"""Tensors from one process to many at once, and how the parties of such a round agree in Redis. Knows no policy."""
