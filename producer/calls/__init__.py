"""What every call of a client needs: checked arguments, the right event loop, time limits. Never talks to Redis."""
