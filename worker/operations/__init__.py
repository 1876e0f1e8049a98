"""What an operator sees of a worker and asks of it: reports, logs, control, its end. Touches no job's content."""
