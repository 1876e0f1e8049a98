"""A Redis as companies run it, for tests: TLS with certificates that are made on the spot, users and password files."""
