"""Turns of conversations: what a group goes on from, and which worker has its prefix. No engine is asked here."""
