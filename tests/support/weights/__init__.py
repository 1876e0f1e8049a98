"""Policy versions and their weights, for tests: published, served, proven, and harmed on purpose."""
