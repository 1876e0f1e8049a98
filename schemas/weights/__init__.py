"""What a checkpoint's and an adapter's files may hold: one set of rules for trainers and workers.

Reads files, never Redis; loads neither torch nor a model.
"""
