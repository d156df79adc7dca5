"""Floor 3: the process that runs steps. It knows the port and the flow, never the database."""
