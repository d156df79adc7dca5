"""The comparison with other systems: what a driver says becomes a cell, a reason or a failure, and never anything else."""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.comparison import Told, cell, parse, ratios, remarks, rows, table
from harness.environments import NotInstalled, Wanted, install, wanted

SCRIPTS = Path(__file__).parent.parent / "scripts"
# As drivers said it, but for the figures.
OURS = {
    "peer": "durable-agent", "shape": "W1", "versions": {"durable-agent": "0.1.0", "psycopg": "3.3.9"}, "settings": ["as installed"],
    "stores": "run, step with its result, and every event", "keeps": True, "note": None, "count": 5000,
    "values": {"steps/s": 9000.4, "steps": 5000, "executed": 5000},
}  # fmt: skip
ABSURD = {
    "peer": "absurd", "shape": "W1", "versions": {"absurd-sdk": "0.5.1"}, "settings": ["concurrency=50", "poll_interval=0.005"],
    "stores": "task, run, checkpoints", "keeps": True, "note": None, "count": 5000,
    "values": {"steps/s": 900.0, "steps": 5000, "executed": 5000},
}  # fmt: skip
PGQUEUER = {
    "peer": "PgQueuer", "shape": "W1", "versions": {"pgqueuer": "1.6.0"}, "settings": ["batch_size=50"], "stores": "a line of log",
    "keeps": False, "note": None, "count": 5000, "values": {"steps/s": 21000.0, "steps": 5000, "executed": 5000},
}  # fmt: skip
NO_CHAINS = {**PGQUEUER, "shape": "W2", "absent": "jobs only: it has no steps that follow one another"}
NO_CHAINS.pop("values")


def said(line: dict[str, Any], **values: float | None) -> Told:
    """Return what is made of a driver's line, with other values."""
    changed = {**line, "values": {**line["values"], **values}} if "values" in line else line
    return parse(line["peer"], line["shape"], "a warning of some library\n" + json.dumps(changed) + "\n")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("peers")


def test_a_cell_is_the_median_of_the_rounds():
    (row,) = rows([said(ABSURD, **{"steps/s": rate}) for rate in (700.0, 1500.0, 800.0)], {})
    assert cell(row, "W1") == "800"
    assert row.spread("W1") == pytest.approx(1500 / 700)


def test_the_table_has_a_row_for_each_system_and_a_dash_where_there_is_no_such_notion():
    found = rows([said(OURS), said({**OURS, "shape": "W2"}), said(PGQUEUER), said(NO_CHAINS)], {})
    assert table(found, ["W1", "W2"]).splitlines()[2:] == [
        "| durable-agent | 9,000 | 9,000 |",
        "| PgQueuer | 21,000 | – |",
    ]
    assert "- W2: –: jobs only: it has no steps that follow one another" in remarks(found, ["W1", "W2"])


def test_what_a_system_stores_and_its_versions_and_settings_are_told():
    text = remarks(rows([said(ABSURD)], {}), ["W1"])
    assert text.splitlines() == [
        "**absurd** (absurd-sdk 0.5.1)", "- stores: task, run, checkpoints", "- settings: concurrency=50; poll_interval=0.005",
    ]  # fmt: skip


def test_a_failed_round_is_not_hidden_by_the_others():
    found = rows([said(ABSURD), Told("absurd", "W1", failed="not done after 180 s"), said(ABSURD)], {})
    assert cell(found[0], "W1") == "900 (1 of 3 failed)"
    assert "- W1: failed: not done after 180 s" in remarks(found, ["W1"])


def test_a_system_that_only_failed_is_a_row_that_says_so():
    found = rows([said(OURS), Told("Restate", "W1", failed="not done after 180 s")], {})
    assert table(found, ["W1"]).splitlines()[-1] == "| Restate | failed |"
    assert "**Restate** failed: not done after 180 s" in remarks(found, ["W1"])


def test_a_system_that_cannot_be_installed_is_a_row_with_the_reason():
    found = rows([said(OURS)], {"DBOS": "pip: no | such\nversion"})
    assert table(found, ["W1", "W2"]).splitlines()[-1] == "| DBOS | failed: pip: no / such version | |"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "no figures: the driver said nothing"),
        ("Traceback\nValueError: no\n", "no figures: ValueError: no"),
        ("{broken\n", "no figures: {broken"),
        (json.dumps(OURS | {"shape": "W2"}), "the driver measured W2, not W1"),
        (json.dumps({"peer": "x", "shape": "W1"}), "neither figures nor a reason"),
        (json.dumps(OURS | {"values": {"steps/s": 1e6, "steps": 10, "executed": 9}}), "only 9 of 10 steps ran"),
    ],
)
def test_what_is_no_measurement_is_a_failure_and_has_no_figures(output: str, reason: str):
    told = parse("durable-agent", "W1", output)
    assert (told.failed, told.values) == (reason, {})


def test_times_and_pairs_are_told_as_such():
    four = said({**OURS, "shape": "W4", "values": {"p50 ms": 4.321, "p99 ms": 12.34}})
    five = said({**OURS, "shape": "W5", "values": {"single/s": 2691.4, "bulk/s": None}})
    seven = said({**OURS, "shape": "W7", "values": {"ratio": 0.876, "steps/s": 1.0, "others": 200_000}})
    (row,) = rows([four, five, seven], {})
    (jobs,) = rows([said({**NO_CHAINS, "shape": "W4"})], {})
    assert cell(jobs, "W4") == "–"
    assert [cell(row, shape) for shape in ("W4", "W5", "W7", "W6")] == ["4.32 / 12.3", "2,691 / –", "0.88", ""]


def test_the_ratio_is_to_the_best_of_those_that_keep_a_result():
    found = rows([said(OURS), said(ABSURD), said(PGQUEUER)], {})
    assert ratios(found, ["W1", "W4"], "durable-agent") == {"W1": (pytest.approx(9000.4 / 900), "absurd")}


def test_a_system_with_other_settings_is_no_other_system():
    many = said({**OURS, "peer": "durable-agent, 200 slots"}, **{"steps/s": 12000.0})
    found = rows([said(OURS), many, said(ABSURD)], {})
    told = {own: ratios(found, ["W1"], own)["W1"] for own in ("durable-agent", "durable-agent, 200 slots")}
    assert told == {
        "durable-agent": (pytest.approx(9000.4 / 900), "absurd"),
        "durable-agent, 200 slots": (pytest.approx(12000 / 900), "absurd"),
    }


def test_every_system_has_a_module_and_exact_versions(peers: ModuleType):
    asked = wanted(SCRIPTS / "peers" / "versions.toml")
    assert set(asked) | set(peers.OURS) == set(peers.PEERS)
    assert {path.stem.removeprefix("on_") for path in (SCRIPTS / "peers").glob("on_*.py")} == set(peers.PEERS)
    loose = [one for each in asked.values() for one in each.python if one.count("==") != 1]
    assert loose == []
    assert all(any(one.startswith("uvloop==") for one in each.python) for each in asked.values())


def test_each_round_begins_with_another_system(peers: ModuleType):
    plan = peers.Plan(dict.fromkeys(["a", "b", "c"], Path()), ("W1",), 3, 1.0, 1.0)
    assert [name for _, _, name in plan.turns()] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_a_driver_that_hangs_is_a_failure_and_nothing_of_it_is_left(peers: ModuleType, tmp_path: Path):
    program = tmp_path / "hangs.py"
    program.write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )
    told = peers.drive("absurd", "W1", [sys.executable, str(program)], {}, 2.0)
    assert told.failed == "not done after 2 s"
    pids = (tmp_path / "pids").read_text().split()
    assert [pid for pid in pids if not ended(int(pid))] == []


def test_a_driver_that_breaks_is_a_failure_with_its_error(peers: ModuleType):
    told = peers.drive("absurd", "W1", [sys.executable, "-c", "raise RuntimeError('a worker did not start')"], {}, 30.0)
    assert told.failed == "RuntimeError: a worker did not start"


def test_what_cannot_be_installed_says_why_and_leaves_nothing_half_made(tmp_path: Path):
    one = Wanted("nothing", (str(tmp_path / "absent.whl"),))
    with pytest.raises(NotInstalled, match=r"pip: .*absent\.whl"):
        install(one, tmp_path / "environments")
    assert [path.name for path in (tmp_path / "environments").iterdir()] == ["nothing.lock"]


def ended(pid: int) -> bool:
    """Return whether a process ends, or has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)
