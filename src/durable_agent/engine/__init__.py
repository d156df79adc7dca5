"""Floor 2: one verb, one transaction."""
