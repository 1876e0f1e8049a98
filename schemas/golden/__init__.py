"""Golden jobs, compared with what a worker gives now: both sides compare by these rules."""
