"""The process on a GPU: takes jobs from a Redis stream, generates, publishes each group once."""
