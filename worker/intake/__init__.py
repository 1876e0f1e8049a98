"""How jobs come in: reading, taking over, parking, trimming, backpressure. Generates nothing."""
