"""The parts of a reading: each says which commands it wants, and makes what is shown of the answers. None of them
writes."""
