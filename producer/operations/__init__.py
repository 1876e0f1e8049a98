"""What an operator does with a running queue: see its state, pause, drain, change the lease. Prints nothing."""
