"""Carries bytes for producers and workers: the only package below both that does I/O over a network.

It knows no message, no batch and no policy, and hardly more of `schemas` than the errors.
"""

if __name__ == "transport":
    raise ImportError("transport is a part of rollstream: from rollstream import transport")
