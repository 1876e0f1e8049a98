"""Fetch, keep and evict LoRA adapters, so that each is there as long as it is used. Never chooses a version."""
