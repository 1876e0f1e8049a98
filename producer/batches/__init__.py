"""A batch from prompts to tensors: submitted once, followed, cancelled, laid out. Never publishes a policy."""
