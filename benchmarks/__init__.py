"""Benchmarks that anyone can run: `python -m benchmarks.NAME --help`. They use producer and worker without changes."""
