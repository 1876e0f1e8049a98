"""How completions are sampled: the config of a batch, its parts, and the names that other libraries give them.

Nothing here knows a message or a key.
"""
