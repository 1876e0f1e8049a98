"""What a shell asks this command line, and what it is told: completion.

No command here reads Redis.
"""
