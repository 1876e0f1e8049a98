"""What a trainer holds: the tensors of a batch, made of answers, picked, joined, kept in files. Asks no Redis."""
