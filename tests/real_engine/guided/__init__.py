"""Guides and thinking budgets on the real engine."""
