"""The queues of `benchmarks.queue.alone`: for each a client and a worker, in their own processes, with no-op jobs.

The peers are no dependencies: each has a virtual environment (`python -m benchmarks.peers FOLDER`), and its file
imports only that queue and `serving`.
"""
