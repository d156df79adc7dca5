"""The campaigns of `scripts/chaos.py`, each a class `Run`."""
