"""LoRA adapters in place for as long as they are used: fetched, kept, evicted. Never chooses a version."""
