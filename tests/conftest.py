"""Fixtures: the run's server, a database of one's own, settings that lead to it."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from durable_agent.settings import Settings
from tests.support import postgres
from tests.support.postgres import Database
from tests.support.runs import Engine, engine_on
from tests.support.sites import Site, site, sockets

HERE = Path(__file__).parent
# A slow machine is no defect.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")
# What goes through the API or whole processes and is about hints: once with LISTEN, once without.
LIVE = {"api/test_runs", "acceptance/test_everything_killed", "acceptance/test_waits"}
# What kills whole processes, or is slow for the sake of another program: on one server only.
ONCE = {
    "test_kill_matrix",
    "test_everything_killed",
    "test_agents",
    "test_tool_servers",
    "test_langgraph",
    "test_pydantic_ai",
    "test_interleavings",
    "test_history",
    "test_simulation_trace",
}
# What makes something once for all its tests. (The marks of pytest-xdist 3.8 for this are not heard by pytest 9.2.)
TOGETHER = {"api/test_answers", "cli/test_agents", "cli/test_commands", "cli/test_trouble", "testing/test_history"}


def pytest_configure(config: pytest.Config) -> None:
    """Start the server once, in the process that starts the others, and hand its URL down by the environment."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    for name in ("DATABASE_URL", "DATABASE_DIRECT_URL", "PORT", "WORKER_ID", "MAX_CONCURRENT_TASKS"):
        os.environ.pop(name, None)
    directory = tempfile.TemporaryDirectory(prefix="durable-agent-tests-", dir=postgres.place())
    Path(directory.name).chmod(0o755)
    running = postgres.server(Path(directory.name) / "server")
    os.environ["TEST_ADMIN_URL"] = running.__enter__()

    def stop() -> None:
        running.__exit__(None, None, None)
        directory.cleanup()

    config.add_cleanup(stop)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests that share a stack or a browser to one process, so that it is made once; every other test is alone."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = Path(nodeid.partition("::")[0]).with_suffix("")
            name = module.relative_to(HERE.name).as_posix()
            if module.parent.name == "console":
                return "console"
            return name if name in TOGETHER else nodeid

    return Together(config, log)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out, on another server than the embedded one, whole processes that are not about its statements."""
    once = collection_path.stem in ONCE and collection_path.parent.name != "api"
    return True if postgres.bin_dir() is not None and (once or collection_path.name in ("cli", "console")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would be the same again on another server than the embedded one: what asks for none."""
    if postgres.bin_dir() is not None:
        asking = [item for item in items if "admin_url" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=list({*items} - {*asking}))
        items[:] = asking


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play what is about hints twice."""
    path = Path(metafunc.module.__file__).relative_to(HERE).with_suffix("")
    if path.as_posix() in LIVE and "listen" in metafunc.fixturenames:
        metafunc.parametrize("listen", ["on", "off"] if postgres.bin_dir() is None else ["on"], indirect=True)


@pytest.fixture
def listen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch LISTEN on or off for all that the test starts; where it is not asked for, it is on."""
    monkeypatch.setenv("DURABLE_AGENT_LISTEN", getattr(request, "param", "on"))


def pytest_collection_finish() -> None:
    """Leave what is loaded by now to itself, as the product's processes do: a collection need not walk it, time and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def admin_url() -> str:
    """The superuser's URL of the run's server."""
    return os.environ["TEST_ADMIN_URL"]


@pytest.fixture
def database(admin_url: str) -> Iterator[Database]:
    """A database at the schema's head, for this test alone."""
    with postgres.cloned(admin_url) as made:
        yield made


@pytest.fixture
def settings(database: Database, listen: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that lead to the test's database; whatever else the environment says stays out, but LISTEN."""
    for name in list(os.environ):
        if name.startswith("DURABLE_AGENT_") and name != "DURABLE_AGENT_LISTEN":
            monkeypatch.delenv(name)
    return Settings(_env_file=None, database_url=database.url, port=0)


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[Engine]:
    """The engine by hand; when the test is done, every run's history is folded and compared with its rows."""
    async with engine_on(database.url) as made:
        yield made


@pytest.fixture
def inside() -> Iterator[None]:
    """Whatever a test does, no packet of it leaves the machine."""
    with sockets():
        yield


@pytest.fixture
async def home() -> AsyncIterator[Site]:
    """A site that the operator allows."""
    async with site() as made:
        yield made
