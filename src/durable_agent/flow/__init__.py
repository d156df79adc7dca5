"""Floor 2: how an author writes work."""
