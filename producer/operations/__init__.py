"""What an operator asks a queue that runs: how it is, pause, drain, another lease. Prints nothing."""
