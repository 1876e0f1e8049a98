"""Makes of a prompt and its images what the engine takes, within bounds on what is decoded at once. Samples nothing."""
