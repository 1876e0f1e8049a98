"""Comparison with servers that run the same engine behind HTTP: `python -m benchmarks.http.serve --help`."""
