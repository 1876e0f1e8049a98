"""A trainer's run: what it has outstanding and has consumed and its cursor, in Redis, written by one trainer at a time.
What is sampled for it goes through the rooms below as for any other caller; nothing here knows a training library.
"""
