"""Commands that listen at a port until a signal ends them. What they serve is not theirs."""
