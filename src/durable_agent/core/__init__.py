"""Floor 0: the rules. No I/O, no clock, no randomness, no async."""
