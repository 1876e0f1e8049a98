"""What a worker makes of its engine, against the engine alone: `python -m benchmarks.engine.NAME --help`."""
