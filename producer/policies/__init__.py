"""Check, publish and expire policy versions and adapters, and wait until workers serve them. Never queues a job."""
