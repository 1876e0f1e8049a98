"""What is wrong with a queue. The probe reads, the checks judge what it read; nothing here writes to Redis."""
