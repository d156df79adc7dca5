"""Floor 1: every SQL statement, and no decision."""
