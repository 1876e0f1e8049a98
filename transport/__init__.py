"""What carries bytes for producers and workers alike: the only package beneath both that does I/O over a network.

It knows no message, no batch and no policy, and of `schemas` hardly more than its errors.
"""

if __name__ == "transport":
    raise ImportError("transport is a part of rollstream: from rollstream import transport")
