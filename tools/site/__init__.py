"""Writes the pages of the documentation's site, which mkdocs then builds: documents, both commands, the API.

It only writes text. What a page says stands in docs/, in docstrings and in `--help`, never here.
"""
