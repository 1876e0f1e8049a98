"""Commands on weights: publish and activate versions, show them, make probes of them, ship adapters."""
