"""`check-deploy`: new code is held against every open run before it is rolled out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.system import Answer, command
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

OLD = """
from durable_agent import Graph, tool

@tool("greet", effect="safe")
async def greet(name: str) -> str:
    return name

@tool("undo", effect="safe")
async def undo() -> None: ...

hello = Graph("hello").node("greet", input={"name": "Ada"}, compensate="undo")
"""


def check(database: Database, folder: Path, code: str) -> Answer:
    """Check a module of this code."""
    (folder / "fresh.py").write_text(code)
    return command("check-deploy", "fresh", "--database-url", database.url, "--json", PYTHONPATH=str(folder))


async def started(engine: Engine) -> None:
    """Start runs that stay open: of the old graph, with a step that waits, and one that has ended."""
    import types

    module = types.ModuleType("old")
    exec(OLD, module.__dict__)
    graph = module.__dict__["hello"]
    await engine.submit(run_of(*graph.specs(), graph="hello", graph_version=graph.version))
    await engine.submit(run_of(step("greet", tool="greet", input={"name": "Bob"})))
    ended = await engine.submit(run_of(step("gone", tool="gone")))
    hand = engine.hand(tools=["gone"])
    for claim in await hand.claim():
        await hand.succeed(claim)
    assert (await engine.run(ended))["status"] == "completed"


async def test_code_that_fits_every_open_run_is_let_through(engine: Engine, database: Database, tmp_path: Path) -> None:
    await started(engine)
    done = check(database, tmp_path, OLD)
    assert (done.code, json.loads(done.out)) == (0, {"open_steps": 2, "mismatches": []}), done.err


async def test_what_open_runs_need_and_the_code_lacks_is_listed(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    await started(engine)
    changed = (
        OLD.replace("name: str", "title: str")
        .replace('@tool("undo", effect="safe")\n', "")
        .replace('input={"name"', 'input={"title"')
    )
    done = check(database, tmp_path, changed)
    told = json.loads(done.out)
    assert (done.code, told["open_steps"]) == (1, 2)
    whats = sorted(one["what"] for one in told["mismatches"])
    assert whats[0].startswith("graph 'hello': open runs are pinned to version")
    assert whats[1:] == [
        "tool 'greet': argument 'title': Field required", "tool 'undo' is missing",
    ]  # fmt: skip
    assert {one["steps"] for one in told["mismatches"]} == {1, 2}
