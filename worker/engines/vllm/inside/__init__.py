"""What we run inside vLLM's own processes, EngineCore and its workers. `plugin` and `setup` bring it there.

Knows neither the worker's `Engine` nor its settings.
"""
