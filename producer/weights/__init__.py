"""Publishes a trainer's tensors through the weight store, as anchors and deltas. Knows no batch and no result."""
