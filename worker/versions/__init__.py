"""Decides which policy version is served, and which jobs may run under it. Takes no job."""
