"""What the log says of an error: once, with its incident, and nothing that was secret."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx2
import orjson
import pytest
import uvicorn
from fastapi import FastAPI, Request

from durable_agent.api import problems
from durable_agent.telemetry import configure_logging

SECRET = "da_0123456789ab.a-secret-that-nobody-else-may-read"


async def _fail(log_format: str) -> None:
    """Serve one request that fails unexpectedly, as `durable-agent up` would, and print its answer."""
    configure_logging("info", log_format)
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def broken(request: Request) -> None:
        key = request.headers["authorization"]
        raise RuntimeError(f"broken with a key of {len(key)} characters")

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # the server has no event to wait for
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{port}/", headers={"Authorization": f"Bearer {SECRET}"})
    sys.stdout.write(answer.text)
    server.should_exit = True
    await serving


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_unexpected_error_is_logged_once_under_its_incident_and_without_the_callers_key(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_telemetry", log_format], capture_output=True, text=True, check=True
    )
    incident = orjson.loads(done.stdout)["incident"]
    assert SECRET not in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count("RuntimeError: broken with a key of") == 1
    assert done.stderr.count(incident) == 1
    if log_format == "json":
        (line,) = [one for one in map(orjson.loads, done.stderr.splitlines()) if one.get("incident") == incident]
        assert "RuntimeError: broken with a key of" in line["exception"]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_library_warns_of_is_a_line_like_ours(log_format: str) -> None:
    script = (
        "import logging; from durable_agent.telemetry import configure_logging as configure;"
        f"configure('info', {log_format!r}); configure('info', {log_format!r});"
        "logging.getLogger('a.library').warning('look at %s', 'this'); logging.getLogger('a.library').info('never mind')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    if log_format == "json":
        told = orjson.loads(line)
        assert (told["event"], told["level"], told["part"]) == ("look at this", "warning", "a.library")
    else:
        assert "look at this" in line
        assert "part=a.library" in line


if __name__ == "__main__":
    asyncio.run(_fail(sys.argv[1]))
