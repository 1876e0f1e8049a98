"""Make a probe from a model or from a trainer's own log-probs, and keep it in a file. Publishes nothing."""
