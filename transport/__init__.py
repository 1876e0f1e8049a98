"""Carries bytes for producers and workers: the only package below both that does I/O over a network.

It knows no job and no batch, and of `schemas` hardly more than the errors: only `versions` names keys and a message.
"""

if __name__ == "transport":
    raise ImportError("transport is a part of rollstream: from rollstream import transport")
