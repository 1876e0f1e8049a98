"""Check that files are the weights they claim to be: headers, configs, digests, finite values. No Redis, no engine."""
