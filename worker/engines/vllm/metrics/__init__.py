"""vLLM's own statistics: sent rarely by EngineCore, kept as numbers in the worker for Prometheus. Off by default."""
