"""Floor 3: work with a language model, as steps. It knows the flow and the core."""
