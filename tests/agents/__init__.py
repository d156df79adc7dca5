"""Language models, agents and their tools."""
