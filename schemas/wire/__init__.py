"""What crosses Redis, as messages and as bytes. Nothing here reads a file or talks to Redis."""
