"""A batch from prompts to answers: submit it once, follow it, cancel it. Never publishes a policy."""
