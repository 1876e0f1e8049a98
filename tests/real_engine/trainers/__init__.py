"""The demo, the examples and the drop-ins, with the real engine."""
