"""Reads which experts the tokens of a group went to, from beside its answer. Nothing of tensors of a batch enters."""
