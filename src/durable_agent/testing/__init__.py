"""What an author tests with: a worker killed at every commit, an engine in memory, recorded runs made again."""

from durable_agent.testing.cassette import Played, play
from durable_agent.testing.crash import CrashReport, Happening, crash_everywhere
from durable_agent.testing.inline import run_in_memory
from durable_agent.testing.memory import FakeBackend
from durable_agent.testing.state import FakeRun, FakeWait

__all__ = [
    "CrashReport",
    "FakeBackend",
    "FakeRun",
    "FakeWait",
    "Happening",
    "Played",
    "crash_everywhere",
    "play",
    "run_in_memory",
]
