"""The queues of `benchmarks.queue.alone`: of each a client and a worker, processes of their own, with no-op jobs.

The peers are no dependencies: each has a virtual environment (`python -m benchmarks.peers FOLDER`), and its file
imports nothing but the queue that it is about, and `serving`.
"""
