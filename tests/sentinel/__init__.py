"""What is promised when the primary changes, on real Redis servers and real Sentinels."""
