"""Cassettes: an exported run is made again by pytest in a process of its own, with the network blocked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durable_agent.settings import Settings
from tests.support import outside
from tests.support.server import Api, serving, working
from tests.support.story import MODULES, end, run, wait_of

ROOT = Path(__file__).parents[2]

# Whatever opens a connection in that process fails its test.
BLOCKED = """
import socket

def refuse(*_: object) -> None:
    raise AssertionError("the network was used")

socket.socket.connect = refuse
socket.create_connection = refuse
"""
README = [
    {"name": "tool_call.fetch_data", "input": {"tool": "fetch_data"}},
    {"name": "tool_call.transform", "input": {"tool": "transform"}, "dependsOn": ["tool_call.fetch_data"]},
    {"name": "llm_call.summarize", "input": {"prompt": "Summarize the data"}, "dependsOn": ["tool_call.transform"]},
]


@pytest.fixture
async def api(settings: Settings, tmp_path: Path) -> AsyncIterator[Api]:
    """An API and a worker with the world outside and the demo's tools."""
    outside.forget()
    given = settings.model_copy(update={"artifacts": str(tmp_path / "kept")})
    modules = (*MODULES, "tests.support.hostile", "durable_agent.flow.demo")
    async with serving(given) as made, working(given, modules):
        yield made


async def exported(api: Api, run_id: str, folder: Path) -> Path:
    """Return the file that a run was exported to."""
    await end(api, run_id)
    path = folder / "run.jsonl"
    path.write_bytes((await api.http.get(f"/runs/{run_id}/export")).content)
    return path


def replayed(path: Path, *modules: str, code: str = "", alone: bool = True) -> subprocess.CompletedProcess[str]:
    """Run pytest on the file where nothing can be reached; `code` is a module `changed` beside it.

    Only where it is not `alone`, pytest finds our plugin by itself, and every other one that is installed: that takes seconds.
    """
    (path.parent / "conftest.py").write_text(BLOCKED)
    (path.parent / "changed.py").write_text(code)
    given = [part for module in modules for part in ("--replay-import", module)]
    plugin, loading = (
        (["-p", "durable_agent.pytest_plugin"], {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}) if alone else ([], {})
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(path.parent), *plugin, "--replay", str(path), *given],
        cwd=path.parent, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{path.parent}", "HOME": str(path.parent), **loading},
    )  # fmt: skip


async def test_the_readmes_run_is_made_again_without_database_or_network(api: Api, tmp_path: Path) -> None:
    path = await exported(api, await api.start(*README), tmp_path)
    done = replayed(path, "durable_agent.flow.demo", alone=False)
    assert (done.returncode, "3 passed" in done.stdout) == (0, True), done.stdout + done.stderr


async def test_effects_waits_files_and_large_results_are_made_again(api: Api, tmp_path: Path) -> None:
    run_id = await api.start(
        {"name": "buy", "tool": "buy", "input": {"waits": True}},
        {"name": "fan", "tool": "fan", "input": {"items": [1, 2]}, "dependsOn": ["buy"]},
        {"name": "large", "tool": "resumes", "input": {"size": 500_000}, "retry": {"baseS": 0}, "dependsOn": ["fan"]},
        {"name": "whole", "tool": "large", "input": {"size": 500_000}, "dependsOn": ["fan"]},
        {"name": "measured", "tool": "length", "dependsOn": ["whole"]},
        {"name": "files", "tool": "files", "dependsOn": ["large"]},
        {"name": "gone", "tool": "letter", "input": {"how": "refused"}, "retry": {"baseS": 0}, "dependsOn": ["files"]},
    )
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/respond", json={"value": "yes"})
    path = await exported(api, run_id, tmp_path)
    done = replayed(path, "tests.support.outside", "tests.support.hostile")
    assert (done.returncode, "9 passed" in done.stdout) == (0, True), done.stdout + done.stderr


CHANGED = """
from tests.support.outside import *
from durable_agent import Context, step, tool

@step("letter")
async def letter(ctx: Context, how: str = "well", to: str = "her") -> str:
    {body}
"""


CHANGES = [
    ("return 'nothing'", "'mail', which was recorded"),
    ("return str(await ctx.call('mail', to='him', how=how))", "differs from the recorded one"),
    ("await ctx.call('mail', to=to, how=how); return 'other'", 'recorded "sent to her", now "other"'),
    ("await ctx.call('mail', to=to, how=how); await ctx.ask('and now?')", "which was not recorded"),
    ("await ctx.call('mail', to=to, how=how); await ctx.call('mail', to=to, how=how)", "once more than was recorded"),
]


async def test_changed_code_fails_its_step_and_says_how(api: Api, tmp_path: Path) -> None:
    path = await exported(api, await run(api, "letter"), tmp_path)
    assert replayed(path, "tests.support.outside").returncode == 0
    for body, told in CHANGES:
        done = replayed(path, "changed", code=CHANGED.format(body=body))
        assert (done.returncode, "step 's'" in done.stdout, told in done.stdout) == (1, True, True), done.stdout


async def test_a_file_that_was_altered_is_refused(api: Api, tmp_path: Path) -> None:
    path = await exported(api, await run(api, "letter"), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"sent to her", b"sent to him"))
    done = replayed(path, "tests.support.outside")
    assert done.returncode != 0
    assert "not the one that was recorded" in done.stdout
