"""Floor 4: the control plane. It translates and delegates."""
