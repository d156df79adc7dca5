"""Floor 5: compose processes, talk to the engine or the API."""

from durable_agent.cli.main import main

__all__ = ["main"]
