"""What every call of a client goes through: its arguments, its loop, its patience. Never talks to Redis."""
