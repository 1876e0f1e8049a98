"""What others serve over HTTP on the same engine: `python -m benchmarks.http.serve --help`."""
