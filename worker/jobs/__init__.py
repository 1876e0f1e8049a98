"""Runs one job, from its payload to its answers: checks, seeds, beams, groups. Reads no stream."""
