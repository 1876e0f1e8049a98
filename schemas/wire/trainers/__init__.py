"""What a trainer leaves in Redis for the one that comes back: its outstanding batches, and the turns of conversations.
No message that a worker reads enters, and none that answers one.
"""
