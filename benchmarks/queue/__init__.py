"""What the queue itself costs, with made-up tokens: `python -m benchmarks.queue.NAME --help`."""
