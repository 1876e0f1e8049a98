"""Which prompts of a batch start first, and how it is cut into jobs. Pure, but for the file of remembered lengths."""
