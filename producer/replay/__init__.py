"""Select finished and dead jobs, queue them again, compare the results. Never changes the originals, prints nothing."""
