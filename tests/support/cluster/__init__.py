"""Load on a real cluster, and what is done to it meanwhile."""
