"""What other trainers and training loops call. Imports none of those libraries, and nothing private of a batch."""
