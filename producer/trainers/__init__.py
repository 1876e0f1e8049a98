"""What ROLL, TRL, verl and other training loops call. Uses only the public parts of a batch, and imports no trainer."""
