"""What is wrong with a queue: the probe only looks, the checks only judge. Nothing here writes."""
