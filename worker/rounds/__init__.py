"""A version that comes from the trainer's memory: joins its round, has the engine receive it. Decides on no version."""
