"""Conversations: which turns a session has, in Redis, and their answers as one sequence a trainer can learn from.
What is sampled goes through the rooms below as for any other caller; nothing here knows a chat template or a tool.
"""
