"""What a worker counts, once and where it happens, and how Prometheus reads that. Decides nothing, knows no Redis."""
