"""Restate: a server of its own (Rust, its own log) that calls handlers over HTTP/2; PostgreSQL is not used.

The server is started for the measurement in a folder of its own, on ports of its own, and ends with the driver.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return"
from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import restate
from driver import CLIENTS, LENGTH, WIDTH, About, Peer, dying_with_parent, main, until

_LEFT = "select count(*) as n from sys_invocation where status <> 'completed' and target_handler_name <> 'others'"
_CONNECTIONS = 64


class Http:
    """One connection of HTTP/1.1 to the server, used again and again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any = None) -> Any:
        """Return what the server answers. Raises RuntimeError when that is no success."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        sent = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else "content-type: application/json\r\n"
        head = f"POST {path} HTTP/1.1\r\nhost: peer\r\naccept: application/json\r\n{kind}content-length: {len(sent)}\r\n\r\n"
        writer.write(head.encode() + sent)
        answered = await reader.readuntil(b"\r\n\r\n")
        status, _, headers = answered.decode().partition("\r\n")
        told = await self._body(reader, headers.lower())
        if not status.split()[1].startswith("2"):
            raise RuntimeError(f"{path}: {status}: {told[:200].decode(errors='replace')}")
        return json.loads(told) if told else None

    async def _body(self, reader: asyncio.StreamReader, headers: str) -> bytes:
        if "transfer-encoding: chunked" not in headers:
            sized = [line for line in headers.split("\r\n") if line.startswith("content-length:")]
            return await reader.readexactly(int(sized[0].split(":")[1])) if sized else b""
        told = b""
        while size := int(await reader.readline(), 16):
            told += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return told

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()


class OnRestate(Peer):
    """One invocation a run; steps are `ctx.run`, those of a fan started together."""

    about = About(
        name="Restate",
        packages=("restate-sdk", "hypercorn"),
        settings=(
            "restate-server as it comes, one node (fsync of its log on)",
            "two processes of the Python SDK under Hypercorn on one port",
        ),
        stores="the invocation's journal with each step's result, in its own log and RocksDB",
        absent={"bulk": "one invocation a request"},
        notes={
            "W1": "up to 1,000 invocations at a time, its default",
            "W5": "given with a delay of a day, so that none runs meanwhile",
            "W7": "the others are two thirds as many, all delayed: there is no finished third",
        },
    )

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Return the versions that really ran, the server's too."""
        told = json.loads((_package() / "package.json").read_text())
        return {"restate-server": str(told["version"]), **super().versions()}

    def _services(self) -> Any:
        bench = restate.Service("bench")

        async def step() -> None:
            self.tick()

        @bench.handler()
        async def one(ctx: restate.Context) -> None:
            await ctx.run_typed("s", step)

        @bench.handler()
        async def chain(ctx: restate.Context) -> None:
            for n in range(LENGTH):
                await ctx.run_typed(f"s{n}", step)

        @bench.handler()
        async def fan(ctx: restate.Context) -> None:
            await ctx.run_typed("a", step)
            await restate.gather(*(ctx.run_typed(f"m{n}", step) for n in range(WIDTH)))
            await ctx.run_typed("z", step)

        @bench.handler()
        async def long(ctx: restate.Context) -> None:
            await ctx.run_typed("s", self.hold)

        @bench.handler()
        async def others(ctx: restate.Context) -> None:
            await ctx.run_typed("s", step)

        return restate.app(services=[bench], protocol="bidi")

    async def work(self, worker: str) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", int((self.folder / "endpoint").read_text())))
        listening.listen(512)
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.h2_max_concurrent_streams = 2048
        config.keep_alive_timeout = 3600
        self.ready(worker)
        await hypercorn.asyncio.serve(self._services(), config, shutdown_trigger=asyncio.Event().wait)

    async def prepare(self) -> None:
        self.ingress, self.admin, fabric, self.endpoint = _free_ports(4)
        (self.folder / "endpoint").write_text(str(self.endpoint))
        self.server = self._start_server(fabric)
        self.control = Http(self.admin)
        first = self._start_first()
        self.refusal = "it did not answer"
        try:
            async with asyncio.timeout(60):
                await until(lambda: self._registered(first), 0.1)
        except TimeoutError:
            raise RuntimeError(f"restate-server did not take the handlers: {self.refusal}") from None
        finally:
            first.kill()
            first.wait()

    def _start_server(self, fabric: int) -> subprocess.Popen[bytes]:
        addresses = {
            "RESTATE_INGRESS__BIND_ADDRESS": self.ingress, "RESTATE_ADMIN__BIND_ADDRESS": self.admin, "RESTATE_BIND_ADDRESS": fabric,
        }  # fmt: skip
        environment = {name: f"127.0.0.1:{port}" for name, port in addresses.items()}
        with (self.folder / "server.log").open("wb") as log:
            return subprocess.Popen(
                [_package() / "bin" / "restate-server", "--no-logo", "--base-dir", self.folder / "restate", "--node-name", "bench",
                 "--listen-mode", "tcp"],
                env={**os.environ, **environment, "RESTATE_DISABLE_TELEMETRY": "true", "RESTATE_LOG_FILTER": "error"},
                stdout=log, stderr=log, preexec_fn=dying_with_parent, cwd=self.folder,
            )  # fmt: skip

    def _start_first(self) -> subprocess.Popen[bytes]:
        """Start a process with the handlers, for the server to learn them from; it ends before any worker starts."""
        with (self.folder / "workers.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, sys.argv[0], "worker", "--folder", self.folder, "--name", "first"],
                stdout=log, stderr=log, preexec_fn=dying_with_parent,
            )  # fmt: skip

    async def _registered(self, first: subprocess.Popen[bytes]) -> bool:
        """Tell whether the server knows the handlers; it is asked again while it and the first process are starting."""
        if first.poll() is not None:
            raise RuntimeError(f"the handlers' process ended: {(self.folder / 'workers.log').read_text()[-300:]}")
        if self.server.poll() is not None:
            raise RuntimeError(f"restate-server ended: {(self.folder / 'server.log').read_text()[-300:]}")
        try:
            await self.control.post("/deployments", {"uri": f"http://127.0.0.1:{self.endpoint}"})
        except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
            self.control, self.refusal = Http(self.admin), str(error)
            return False
        return True

    async def open(self) -> None:
        self.connections = [Http(self.ingress) for _ in range(_CONNECTIONS)]
        self.free: asyncio.Queue[Http] = asyncio.Queue()
        for connection in self.connections[:CLIENTS]:
            self.free.put_nowait(connection)

    async def close(self) -> None:
        for connection in (*getattr(self, "connections", ()), self.control):
            connection.close()
        self.server.kill()
        self.server.wait()

    async def submit(self, work: str, count: int) -> None:
        await self._send(f"/bench/{work}/send", count)

    async def _send(self, path: str, count: int) -> None:
        async def client(connection: Http, share: int) -> None:
            for _ in range(share):
                await connection.post(path)

        shares = [count // _CONNECTIONS + (n < count % _CONNECTIONS) for n in range(_CONNECTIONS)]
        await asyncio.gather(*map(client, self.connections, shares))

    async def submit_one(self) -> None:
        connection = await self.free.get()
        await connection.post("/bench/others/send?delay=1d")
        self.free.put_nowait(connection)

    async def left(self) -> bool:
        return bool((await self.control.post("/query", {"query": _LEFT}))["rows"][0]["n"])

    async def run_one(self) -> None:
        await self.connections[0].post("/bench/one")

    async def ballast(self, count: int) -> None:
        await self._send("/bench/others/send?delay=1d", count * 2 // 3)


def _package() -> Path:
    """Return the folder of the server's package for this machine."""
    (folder,) = Path(sys.prefix).glob("npm/node_modules/@restatedev/restate-server-*")
    return folder


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody had a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main(OnRestate)
