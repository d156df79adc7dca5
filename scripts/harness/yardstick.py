"""The yardstick: what the same server does for the shipped pgbench in the same run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psycopg

_INSERT = "insert into yard_commits(v) values (1);\n"
_PAIR = """
update yard set state = 1 where id = (select id from yard where state = 0 order by id for update skip locked limit 1)
returning id \\gset
update yard set state = 2 where id = :id;
"""
# The same in transaction blocks, as most queues do it: look and lock, change, commit.
_BLOCKS = """
begin;
select id from yard where state = 0 order by id for update skip locked limit 1 \\gset
update yard set state = 1 where id = :id;
commit;
begin;
update yard set state = 2 where id = :id;
commit;
"""
SECONDS = 4
CLIENTS = (1, 4, 8, 16, 32)


def measure(bin_dir: Path, admin_url: str, directory: Path) -> dict[str, dict[int, float]]:
    """Return transactions a second by number of clients: one-row commits, and pairs of claim and complete."""
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute("create table if not exists yard_commits (id bigint generated always as identity, v int)")
        conn.execute("drop table if exists yard")
        conn.execute("create table yard (id bigint generated always as identity primary key, state int not null)")
        conn.execute("create index on yard (id) where state = 0")
    found: dict[str, dict[int, float]] = {}
    file = directory / "commits.sql"
    file.write_text(_INSERT)
    found["commits"] = {clients: _pgbench(bin_dir, admin_url, file, clients) for clients in CLIENTS}
    for name, script in (("claim and complete", _PAIR), ("claim and complete in blocks", _BLOCKS)):
        found[name] = {c: pairs(bin_dir, admin_url, directory, c, script=script) for c in CLIENTS}
    return found


def pairs(bin_dir: Path, admin_url: str, directory: Path, clients: int, *, script: str = _PAIR) -> float:
    """Return pairs of claim and complete a second."""
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute("truncate yard")
        conn.execute("insert into yard (state) select 0 from generate_series(1, 150000)")
        conn.execute("vacuum analyze yard")
    file = directory / "pairs.sql"
    file.write_text(script)
    return _pgbench(bin_dir, admin_url, file, clients)


def _pgbench(bin_dir: Path, url: str, script: Path, clients: int) -> float:
    done = subprocess.run(
        [str(bin_dir / "pgbench"), "-n", "-M", "prepared", "-f", str(script), "-c", str(clients), "-j", "2", "-T", str(SECONDS),
         url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if rate is None:
        raise RuntimeError(f"pgbench failed: {done.stderr[-400:]}")
    return float(rate.group(1))
