"""A worker compared with its engine alone: `python -m benchmarks.engine.NAME --help`."""
