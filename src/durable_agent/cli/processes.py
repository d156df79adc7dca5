"""The processes: one API, one worker. Each is composed here and nowhere else."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from durable_agent import __version__, migrate
from durable_agent.agents.kinds import AGENT_KINDS
from durable_agent.agents.models import WorkerModels
from durable_agent.agents.reach import Reach
from durable_agent.agents.tools import built_in
from durable_agent.artifacts import Artifacts
from durable_agent.core.port import Backend, Offer
from durable_agent.core.records import DEFAULT_TENANT, SessionId
from durable_agent.db.doorbell import CONTROL, READY, Bell, Listener
from durable_agent.db.pool import Database, first_line
from durable_agent.engine.backend import PostgresBackend
from durable_agent.engine.graphs import register
from durable_agent.engine.health import registered
from durable_agent.engine.heart import Heart
from durable_agent.engine.prices import prices_of
from durable_agent.engine.reap import Upkeep
from durable_agent.engine.weeks import begin_weeks
from durable_agent.errors import DatabaseUnavailable, InvalidRequest, SchemaMismatch, innermost
from durable_agent.flow.kinds import KINDS
from durable_agent.flow.registry import Registry
from durable_agent.settings import Settings, environment
from durable_agent.tasks import beside
from durable_agent.telemetry import Counters, configure_logging, logger
from durable_agent.vault import Vault
from durable_agent.worker.loop import Worker

log = logger("process")

DEMO = "durable_agent.flow.demo"
_PR_SET_PDEATHSIG = 1


def run(main: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine on the fast event loop, where there is one."""
    # What is loaded by now stays: the collector need not walk it again, nor come at every batch of short-lived rows.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def dying_with(parent: int) -> Callable[[], None]:
    """Return what a new child calls before all else, so that the kernel ends it when the parent dies, however (Linux)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)  # it died before we had asked

    return prepare


async def until_registered(url: str, pids: Callable[[], Sequence[int | None]]) -> None:
    """Return when each of this machine's processes holds a live worker session."""
    async with Database.open(url, size=2) as db:
        while True:
            if await registered(db, socket.gethostname(), pids()):
                return
            await asyncio.sleep(0.05)


def worker_process(settings: Settings, modules: Sequence[str]) -> None:
    """Run a worker until SIGTERM or SIGINT, then drain it. Raises, and says in the log, what ended one of its loops."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        run(_until_left(settings, modules))
    except ExceptionGroup as group:
        error = innermost(group)
        log.error("loop_ended", error=f"{type(error).__name__}: {first_line(error)}")
        raise


async def _until_left(settings: Settings, modules: Sequence[str]) -> None:
    if await worker(settings, modules):
        # What does not listen to being cancelled holds nothing any more, and would hold the process for as long as it likes.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def api_process(settings: Settings, fd: int | None = None) -> None:
    """Run the API until SIGTERM or SIGINT, on a socket that was handed down where there is one."""
    from durable_agent.api.app import serve

    configure_logging(settings.log_level, settings.log_format)
    if settings.direct_url is not None:
        require_schema(settings.direct_url)
    Artifacts(settings.artifacts_place)  # what cannot be is said in a line, before anything listens
    sock = None if fd is None else socket.socket(fileno=fd)
    run(serve(settings, on_port=lambda port: log.info("listening", url=f"http://{settings.host}:{port}"), sock=sock))


def require_schema(direct_url: str) -> None:
    """Return if the database's schema is this code's. Raises SchemaMismatch, DatabaseUnavailable."""
    state = migrate.check(direct_url)
    if not state.ok:
        raise SchemaMismatch(
            f"the schema is {state.current or 'missing'}, this code needs {state.head}: {state.advice}"
        )
    if not state.usable:
        raise SchemaMismatch("its role may not write the schema's tables: use the one that owns them")


def registry_of(modules: Sequence[str], settings: Settings) -> Registry:
    """Return the modules' tools and graphs, and what every worker offers. Raises InvalidRequest for modules with none."""
    return _registry(modules, environment(settings))


def _registry(modules: Sequence[str], env: Mapping[str, str]) -> Registry:
    sys.path.insert(0, os.getcwd())
    registry = Registry.from_modules(modules)
    if not len(registry) and not registry.graphs:
        raise InvalidRequest(f"no tools found in {', '.join(modules)}; decorate functions with @tool", field="MODULE")
    return registry.including((*built_in(env), *KINDS, *AGENT_KINDS))


async def worker(
    settings: Settings, modules: Sequence[str], *, stop: asyncio.Event | None = None,
    wrap: Callable[[Backend], Backend] = lambda backend: backend,
) -> bool:  # fmt: skip
    """Run a worker with the modules' tools until told to stop, then drain: nothing it held is lost or charged.

    Returns whether attempts are left that did not end when they were cancelled: they hold nothing, and end with the process.
    `wrap` puts something between it and the engine, to test with.
    """
    if settings.database_url is None or settings.direct_url is None:
        raise InvalidRequest("no database: set DATABASE_URL, or use `durable-agent up`", field="DATABASE_URL")
    require_schema(settings.direct_url)
    env = environment(settings)
    registry = _registry(modules or [DEMO], env)
    offer = Offer(
        SessionId(uuid4()), settings.worker_name, settings.queues, registry.names(), settings.max_concurrent_tasks,
        socket.gethostname(), os.getpid(), __version__, registry.classes(),
    )  # fmt: skip
    async with Database.open(
        settings.database_url,
        settings.direct_url,
        size=settings.pool_size,
        statement_timeout_s=settings.statement_timeout_s,
    ) as db:
        graphs = [(g.name, g.version, g.to_json(), g.input_schema(), g.budget_json()) for g in registry.graphs]
        await begin_weeks(db)
        if graphs:
            await register(db, DEFAULT_TENANT, graphs)
        models = WorkerModels.from_env(env, registry.models)
        return await _work(settings, db, registry, offer, stop or asyncio.Event(), wrap, models)


async def _work(
    settings: Settings, db: Database, registry: Registry, offer: Offer, stop: asyncio.Event,
    wrap: Callable[[Backend], Backend], models: WorkerModels,
) -> bool:  # fmt: skip
    counters = Counters()
    reach = Reach(allow=settings.egress_allow, allow_stdio=settings.allow_stdio)
    bell = Bell(db, enabled=settings.listening)
    listener = Listener(db, [READY, CONTROL], enabled=settings.listening)
    upkeep = Upkeep(
        db, bell, settings.lease_ttl_s, settings.tick_s, settings.suspicion, settings.suspicion_s,
        settings.retention_days, counters, relaxed=lambda: listener.up,
    )  # fmt: skip
    backend = PostgresBackend(db, offer, bell, listener, counters, upkeep.stir, Vault(settings.secret_key))
    worker = Worker(
        wrap(backend), registry, settings.max_concurrent_tasks,
        poll_s=lambda: settings.poll_s if listener.up else min(settings.poll_s, 0.5), grace_s=settings.drain_grace_s,
        payload_limit_bytes=settings.payload_limit_bytes, artifact_limit_bytes=settings.artifact_limit_bytes,
        artifacts=Artifacts(settings.artifacts_place), lease_s=settings.lease_ttl_s, counters=counters, models=models,
        sessions=reach,
    )  # fmt: skip
    heart = Heart(
        settings.direct_url or db.direct_url, offer, ttl_s=settings.lease_ttl_s, beat_s=settings.beat_s,
        on_beat=lambda beat: worker.beat(beat.sent_s, beat.owned), on_loss=worker.unheard, load=lambda: len(worker.running),
    )  # fmt: skip
    worker.beat_now = heart.now
    upkeep.on_ready = worker.ready
    on_signals(stop.set)
    loops = {
        "bell": bell.run(), "listener": listener.run(), "upkeep": upkeep.run(), "reach": reach.run(),
        "prices": keep_prices(db, models),
    }  # fmt: skip
    async with beside(loops) as group:
        heart.start()
        await heart.first.wait()
        log.info("worker_started", worker=offer.worker, tools=len(registry), concurrency=offer.concurrency)
        await _until_drained(group, worker, heart, stop)
    log.info("worker_stopped", worker=offer.worker, settled=counters.settled)
    return bool(worker.left)


async def _until_drained(group: asyncio.TaskGroup, worker: Worker, heart: Heart, stop: asyncio.Event) -> None:
    """Run the worker until told to stop; its heart beats until every lease is given back."""
    working = group.create_task(worker.run())
    stopping = group.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    heart.state = "draining"
    heart.now()
    worker.drain()
    await working
    await heart.stop()


async def checkpoint_tables(direct_url: str) -> None:
    """Make the tables of LangGraph's checkpoints, where that extra is installed; nothing otherwise."""
    if importlib.util.find_spec("langgraph") is None:
        return
    from durable_agent.agents.checkpoints import setup

    await setup(direct_url)


async def keep_prices(db: Database, models: WorkerModels) -> None:
    """Go by what the operator set of models, looked at twice a minute, until cancelled. A worker has one set for all tenants."""
    while True:
        with suppress(DatabaseUnavailable):
            models.set_prices(await prices_of(db, DEFAULT_TENANT))
        await asyncio.sleep(30.0)


def on_signals(call: Callable[[], object]) -> None:
    """Call when SIGTERM or SIGINT comes; only the main thread can be told."""
    with suppress(RuntimeError, ValueError):
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, call)
