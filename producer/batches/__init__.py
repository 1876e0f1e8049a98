"""A batch from prompts to tensors: submit it once, follow it, cancel it, lay it out. Never publishes a policy."""
