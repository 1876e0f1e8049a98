"""Golden files: read, and compared with what a worker gives now. Both sides compare by these rules.

Reads files, never Redis.
"""
