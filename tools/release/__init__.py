"""Makes what is released: an sdist and a wheel, byte-equal wherever they are built, a bill of materials, and sums.

Run by `.venv-release`, which has no Rollstream: only the standard library and what the extra `release` brings.
"""
