"""What the files of a checkpoint or an adapter may hold: one set of rules for trainers and workers.

Reads files, never Redis; loads neither torch nor a model.
"""
