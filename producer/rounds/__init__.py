"""Sends weights from the trainer's memory to all workers at once. Never announces a version, never writes a store."""
