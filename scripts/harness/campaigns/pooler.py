"""Everything of the default campaign through PgBouncer in transaction mode.

    python scripts/chaos.py --campaign pooler --minutes 2 --seed 1

Half of the workers have a direct URL for LISTEN and liveness beside it, half have none and poll, as does the API.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import time
from typing import Any

import psycopg

from durable_agent.cli.processes import dying_with
from durable_agent.hosting import unprivileged_user
from harness.campaigns import faults
from harness.history import Report
from harness.stack import WORKERS, Place, Stack, at_port, in_database

_CONFIG = """
[databases]
durable_agent = host=127.0.0.1 port={server} dbname=durable_agent
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {home}/users
pool_mode = transaction
max_client_conn = 500
default_pool_size = 30
ignore_startup_parameters = options
server_login_retry = 0.2
stats_users = durable_agent
logfile = {home}/log
"""


class Run(faults.Run):
    """The default campaign behind a pooler."""

    must_land = ("sigkill", "zombie", "postgres crash")
    mutants = ("pooler-unseen",)

    def missing(self) -> str:
        """Ask for PgBouncer."""
        return "" if shutil.which("pgbouncer") else "pgbouncer is not installed (Debian: apt-get install pgbouncer)"

    def place(self) -> Place:
        """Start PostgreSQL and PgBouncer before it."""
        place = super().place()
        port = self._pooler(place.own_url)
        self.url = at_port(place.own_url, port)
        workers = {f"w{n}": (self.url, place.own_url if n % 2 else self.url) for n in range(WORKERS)}
        return dataclasses.replace(place, url=self.url, direct_url=self.url, load_url=self.url, workers=workers)

    def _pooler(self, url: str) -> int:
        home = self.directory / "pgbouncer"
        home.mkdir(mode=0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        info = psycopg.conninfo.conninfo_to_dict(url)
        (home / "users").write_text(f'"{info["user"]}" "{info["password"]}"\n')
        (home / "config").write_text(_CONFIG.format(server=info["port"], port=port, home=home))
        user = unprivileged_user() if os.geteuid() == 0 else None
        if user is not None:
            for path in (home, *home.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        process = subprocess.Popen(
            ["pgbouncer", "-q", home / "config"], user=user.pw_uid if user else None, cwd="/",
            group=user.pw_gid if user else None, extra_groups=[] if user else None, preexec_fn=dying_with(os.getpid()),
        )  # fmt: skip
        self.exits.callback(process.wait)
        self.exits.callback(process.terminate)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            time.sleep(0.05)
        raise RuntimeError(f"PgBouncer did not start: see {home}/log")

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return what the pooler carried."""
        with psycopg.connect(in_database(self.url, "pgbouncer"), autocommit=True) as conn:
            conn.prepare_threshold = None
            cursor = psycopg.ClientCursor(conn)
            cursor.execute("show stats")
            names = [column.name for column in cursor.description or []]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        carried = sum(int(row["total_xact_count"]) for row in rows if row["database"] == "durable_agent")
        return {"transactions through PgBouncer": carried, "workers with a direct URL": WORKERS // 2}
