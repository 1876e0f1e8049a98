"""The server behind `rollstream web`: two readings of Redis a second for all browsers, and what an operator may ask.

It makes no HTML of data: the page in `assets/` reads JSON. What an operator asks goes through `operations`, `batches`
and `replay`, and nothing here writes to Redis itself.
"""
