"""What kills an engine, corrupts it or keeps it from starting, and what its worker does then."""
