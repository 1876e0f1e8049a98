"""Requests to a real engine, and transformers to compare it with."""
