"""How a worker talks to Redis: retries, pipelines, typed stream commands. Decides nothing about jobs."""
