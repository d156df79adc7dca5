"""What an author tests with: a worker killed at every commit, an engine in memory, a clock that can be moved."""

from durable_agent.testing.crash import CrashReport, Happening, crash_everywhere

__all__ = ["CrashReport", "Happening", "crash_everywhere"]
