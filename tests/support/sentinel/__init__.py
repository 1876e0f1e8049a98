"""Real Redis servers that replicate, and real Sentinels that watch them, on loopback."""
