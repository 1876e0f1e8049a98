"""Leases, budgets and fenced scripts: which worker may answer a job, and how it publishes. Generates nothing."""
