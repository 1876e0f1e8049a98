"""Mixtures of experts: swapped, and asked which experts each token went to."""
