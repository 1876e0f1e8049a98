"""Completions that are kept while they run: their parts, and the workers that go on from them."""
