"""What an operator sees and asks of a worker: reports, logs, control, its end. Touches no job's content."""
