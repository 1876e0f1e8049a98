"""Score jobs through workers with the real engine."""
