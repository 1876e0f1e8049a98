"""How jobs come in: read, taken over, parked, trimmed, held back. Generates nothing."""
