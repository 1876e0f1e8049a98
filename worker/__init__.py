"""The process on a GPU: it takes jobs from a Redis stream, generates, and publishes each group once."""

if __name__ == "worker":
    raise ImportError("worker is a part of rollstream: from rollstream import worker")
