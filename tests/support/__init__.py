"""What test modules share: workers, faults, batches made by hand. Holds no test."""
