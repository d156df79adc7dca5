"""What an author tests with: a worker killed at every commit, an engine in memory, recorded runs made again."""

from typing import TYPE_CHECKING

from durable_agent.lazy import lazily

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CrashReport": "durable_agent.testing.crash",
        "FakeBackend": "durable_agent.testing.memory",
        "FakeRun": "durable_agent.testing.state",
        "FakeWait": "durable_agent.testing.state",
        "Happening": "durable_agent.testing.crash",
        "Played": "durable_agent.testing.cassette",
        "crash_everywhere": "durable_agent.testing.crash",
        "play": "durable_agent.testing.cassette",
        "run_in_memory": "durable_agent.testing.inline",
    },
)
