"""What an engine has to compute again before it is trusted: probes of a policy version, and golden jobs of a worker."""
