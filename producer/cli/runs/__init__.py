"""The command on trainers' runs: which there are, one in full, one given up."""
