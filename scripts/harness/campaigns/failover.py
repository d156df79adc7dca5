"""The primary dies under load and its streaming standby is promoted, with a zombie of the old epoch among the workers.

    python scripts/chaos.py --campaign failover --minutes 3 --seed 1

Half the time replication is synchronous: nothing that a client was told may be missing afterwards. Half of it is
asynchronous over a link that lags: what is missing must be found, and is printed as lost, by epoch. A client of its own
keeps a log of what it was told (a run's last event and its hash); after each failover every line of it is looked up.
Everybody reaches the primary through a proxy, which is led to the new one. The old primary never comes back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson
import psycopg

from durable_agent.core.records import RunSpec
from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.errors import DurableAgentError
from durable_agent.hosting import unprivileged_user
from harness.history import Report
from harness.proxy import Proxy
from harness.stack import Campaign, Place, Stack, at_port, embedded, in_database
from harness.workload import mixed

_HEADS = "select r.id, r.last_seq, r.chain from runs r where r.last_seq > 0 order by r.id desc limit 150"
_TOKENS = "select q.run_id, q.no, q.claim_no, q.token from queue q where q.state = 'leased'"
_AT = "select e.seq, e.hash from events e where e.run_id = %s and e.seq = any(%s)"
_STREAMING = "select count(*)::int from pg_stat_replication where state = 'streaming' and sync_state = any(%s)"
_ROUTES = ("db", "own", "admin")


class Run(Campaign):
    """The campaign of failovers."""

    must_land = ("failover: synchronous", "failover: asynchronous", "zombie of the old epoch")
    mutants = ("not-synchronous",)
    clock_is_sane = False

    def place(self) -> Place:
        """Start the first primary and the routes to it."""
        self.primary, place = embedded(self.directory, self.exits)
        self.proxy = Proxy(self.directory / "proxy.log")
        self.exits.callback(self.proxy.close)
        self.exits.callback(self._stop)
        ports = {name: self.proxy.open(name, self.primary.port) for name in (*_ROUTES, "wal")}
        self.servers = [self.primary]
        self.standby: EmbeddedPostgres | None = None
        self.epoch, self.synchronous = 0, True
        # What the client was told since the last failover, and the leases that it saw.
        self.heads: dict[UUID, dict[int, bytes]] = {}
        self.tokens: dict[UUID, tuple[UUID, int, int]] = {}
        self.lost_tokens: set[UUID] = set()
        self.lost: Counter[str] = Counter()
        self.told = 0
        self.undetected: list[str] = []
        return dataclasses.replace(
            place, url=at_port(place.url, ports["db"]), own_url=at_port(place.own_url, ports["own"]),
            load_url=at_port(place.url, ports["db"]), admin_url=at_port(place.admin_url, ports["admin"]), postgres=None,
        )  # fmt: skip

    def _stop(self) -> None:
        for server in self.servers:
            server.stop("immediate")

    async def rage(self, stack: Stack, db: Database) -> None:
        """Fail over again and again, first with a synchronous standby, then with one that lags."""
        over = stack.faults.over
        chooser = random.Random(self.given.seed)
        for self.synchronous in (True, False):
            over.clear()
            loops = [self._fail_over_again(stack, chooser), self._note(stack)]
            make = mixed if self.synchronous else _without_errands
            await stack.load.during(loops, self.given.minutes * 30, make, watchers=2 if self.synchronous else 0)
            if self.synchronous:
                # The manual calls of the first half must be done: an intent that was lost is a call that is made again.
                self.undetected += await stack.load.settled(db, self.given.patience)
                calls = len(await self._unrecorded(stack))
                self.undetected += [f"I11: {calls} calls for runs lost by a synchronous failover"] if calls else []

    async def _fail_over_again(self, stack: Stack, chooser: random.Random) -> None:
        while not stack.faults.over.is_set():
            await self._attach(stack)
            if not self.synchronous:
                self.proxy.hold("wal", delay_s=0.15)
            await stack.faults.pause(1.0, 2.0)
            if not stack.faults.over.is_set():
                await self._fail_over(stack, chooser)
        await self._attach(stack)

    async def _attach(self, stack: Stack) -> None:
        """Give the primary a standby, if it has none, and wait until it streams."""
        if self.standby is None:
            self.proxy.heal("wal")
            self.standby = await asyncio.to_thread(self._standby)
        await self._pretend(stack)
        wanted = ["sync", "quorum"] if self._insists else ["async"]
        for _ in range(600):
            rows = await stack.faults.query(_STREAMING, wanted)
            if rows and rows[0][0]:
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the standby of epoch {self.epoch} does not stream")

    @property
    def _insists(self) -> bool:
        return self.synchronous and self.given.mutant != "not-synchronous"

    async def _pretend(self, stack: Stack) -> None:
        names = "'*'" if self._insists else "''"
        await stack.faults.query(f"alter system set synchronous_standby_names = {names}")
        await stack.faults.query("select pg_reload_conf()")

    def _standby(self) -> EmbeddedPostgres:
        """Return a new running standby of the primary, streaming through the proxy."""
        home = self.directory / f"node-{self.epoch + 1}"
        home.mkdir(mode=0o755)
        password = self.primary.data_dir / "password"
        shutil.copyfile(password, home / "password")
        (home / "password").chmod(0o600)
        user = unprivileged_user() if os.geteuid() == 0 else None
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        source = at_port(self.primary.admin_url, self.proxy.ports["wal"])
        subprocess.run(
            [self.primary.bin_dir / "pg_basebackup", "-d", source, "-D", home / "postgres", "-X", "stream", "-c", "fast", "-R"],
            check=True, capture_output=True, cwd="/", user=user.pw_uid if user else None,
            group=user.pw_gid if user else None, extra_groups=[] if user else None,
        )  # fmt: skip
        server = EmbeddedPostgres(home)
        server.start()
        self.servers.append(server)
        return server

    async def _fail_over(self, stack: Stack, chooser: random.Random) -> None:
        faults, old, new = stack.faults, self.primary, self.standby
        assert new is not None
        held = {pid: leases for pid, leases in (await faults.held()).items() if pid in faults.workers.values()}
        zombie = chooser.choice(list(held)) if held else None
        if not self.synchronous or self.given.mutant == "not-synchronous":
            # The last commits before the end are never sent: a client was told of them all the same.
            self.proxy.hold("wal", down=True)
            await asyncio.sleep(chooser.uniform(0.2, 0.6))
        if zombie is not None:
            faults.signal(zombie, signal.SIGSTOP)
        self.noting.clear()
        await asyncio.to_thread(old.stop, "immediate")
        self.proxy.sever("wal", reset=True)
        await asyncio.to_thread(self._promote, new)
        for route in (*_ROUTES, "wal"):
            self.proxy.aim(route, new.port)
            self.proxy.sever(route, reset=True)
        self.primary, self.standby, self.epoch = new, None, self.epoch + 1
        await self._compare(stack)
        self.noting.set()
        faults.landed[f"failover: {'synchronous' if self.synchronous else 'asynchronous'}"] += 1
        # Until there is a standby again, a synchronous primary acknowledges nothing.
        await self._attach(stack)
        if zombie is not None:
            await self._wake(stack, zombie, held[zombie])
        shutil.rmtree(old.data_dir, ignore_errors=True)

    def _promote(self, server: EmbeddedPostgres) -> None:
        with psycopg.connect(server.admin_url, autocommit=True) as conn:
            conn.execute("select pg_promote(true, 30)")

    async def _wake(self, stack: Stack, pid: int, leases: list[tuple[UUID, int, int, float]]) -> None:
        """Wake the zombie while somebody else has one of its steps, or has had all of them."""
        try:
            run, no, claim_no, _ = leases[-1]
            await stack.faults.wake_beside_successor(pid, (run, no, claim_no - 1), within_s=3.0)
        finally:
            if stack.faults.signal(pid, signal.SIGCONT):
                stack.faults.landed["zombie of the old epoch"] += 1

    async def _note(self, stack: Stack) -> None:
        """Keep the client's log: each run's last event, as long as the epoch lasts."""
        self.noting = asyncio.Event()
        self.noting.set()
        async with Database.open(stack.place.load_url or "", size=1) as db:
            while not stack.faults.over.is_set():
                await self.noting.wait()
                with suppress(DurableAgentError, TimeoutError):
                    async with asyncio.timeout(3), db.reading() as conn:
                        heads = await (await conn.execute(_HEADS.encode())).fetchall()
                        tokens = await (await conn.execute(_TOKENS.encode())).fetchall()
                        if self.noting.is_set():
                            for run, seq, chain in heads:
                                self.heads.setdefault(run, {})[seq] = bytes(chain)
                            self.tokens.update({token: (run, no, claim_no) for run, no, claim_no, token in tokens})
                await asyncio.sleep(0.04)

    async def _compare(self, stack: Stack) -> None:
        """Look every line of the client's log up in what the new primary has."""
        found: Counter[str] = Counter()
        async with await psycopg.AsyncConnection.connect(in_database(self.primary.admin_url), autocommit=True) as conn:
            known = {row[0] for row in await (await conn.execute("select id from runs")).fetchall()}
            for run in [run for run in stack.load.runs if run not in known]:
                found["runs"] += 1
                del stack.load.runs[run]
            for run, told in self.heads.items():
                rows = await (await conn.execute(_AT.encode(), (run, list(told)))).fetchall()
                here = {seq: bytes(digest) for seq, digest in rows}
                found["events"] += sum(here.get(seq) != chain for seq, chain in told.items())
                self.told += len(told)
            rows = await (
                await conn.execute(
                    "select token from queue where token is not null union select done_token from steps where done_token is not null"
                )
            ).fetchall()
            here_tokens = {row[0] for row in rows}
        self.lost_tokens |= set(self.tokens) - here_tokens
        self.heads.clear()
        self.tokens.clear()
        self.told += len(stack.load.runs)
        if self.synchronous:
            self.undetected += [
                f"P1: epoch {self.epoch}: {n} acknowledged {what} lost by a synchronous failover"
                for what, n in found.items()
                if n
            ]
        else:
            self.lost.update({f"epoch {self.epoch}, {what}": n for what, n in found.items() if n})

    async def checked(self, stack: Stack, db: Database) -> Report:
        """Return what the history checker says; what was called for lost runs has no record any more."""
        orders = await self._unrecorded(stack)
        for order in orders:
            stack.world.calls.pop(order["key"], None)
        self.called = len(orders)
        report = await stack.load.checked(db)
        report.violations += self.undetected
        crossed = [
            row
            for row in await stack.faults.query("select run_id, no, done_token from steps where status = 'succeeded'")
            if row[2] in self.lost_tokens
        ]
        report.violations += [
            f"I2: run {run}: step {no} was ended by a lease of a lost epoch" for run, no, _ in crossed
        ]
        self.crossed = len(crossed)
        return report

    async def _unrecorded(self, stack: Stack) -> list[dict[str, Any]]:
        """Return the calls that were made for runs that are not in the record."""
        known = {row[0] for row in await stack.faults.query("select id from runs")}
        lines = (self.directory / "receiver.log").read_bytes().splitlines()
        return [order for order in map(orjson.loads, lines) if UUID(order["run"]) not in known]

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return what was lost, by epoch."""
        return {
            "epochs": self.epoch, "acknowledgements looked up": self.told,
            "lost by the failover (synchronous)": sum("synchronous failover" in v for v in self.undetected),
            "lost by the failover (asynchronous)": self.lost.total(), **{f"lost: {k}": n for k, n in self.lost.items()},
            "leases of a lost epoch": len(self.lost_tokens), "cross-epoch commits": self.crossed,
            "calls for runs of a lost epoch": self.called,
        }  # fmt: skip


def _without_errands(rng: random.Random) -> RunSpec:
    """Return a run without `manual` calls: an intent that is lost with its epoch is a call that is made again."""
    while True:
        made = mixed(rng)
        if all(step.tool == "work" for step in made.steps):
            return made
