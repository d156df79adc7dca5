"""Fuzz: random requests against a real API; each must be answered, and each refusal must be a problem document.

    python scripts/fuzz.py --seed 1 --requests 5000

Bodies are valid runs with random damage; paths and methods come from the OpenAPI document, parameters from a list of
values that have broken such software before. Exits 1 on a 5xx, a broken problem document, a dead API or a defect that
`durable-agent doctor` finds afterwards. A seed repeats its requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from durable_agent.cli.processes import dying_with
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.migrate import upgrade

PORT = 4197
RUN: dict[str, Any] = {
    "goal": "g",
    "steps": [
        {"name": "a", "input": {"tool": "fetch_data"}, "timeout_s": 5, "priority": 3, "retry": {"max_attempts": 2}},
        {"name": "b", "dependsOn": ["a"], "when": "outputs.a != null", "queue": "q"},
        {"name": "c", "dependsOn": [{"step": "b", "when": "output.x > 1"}], "kind": "llm_call", "deadline_s": 9},
    ],
}
ODD: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, "", " ", "a", "\x00", "\ud800", "é" * 300, "x" * 100_000, [], {},
    [[]], {"": ""}, {"step": "a"}, "a" * 256, "../..", "%00", "'; drop table runs; --", "NaN", "01a1fce3-0000-7000-8000-000000000000",
    "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "completed", "queued",
]  # fmt: skip
RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'{"steps":' + b"[" * 5000,
    b"\xff\xfe",
    b'{"steps":[],"steps":1}',
    b'{"a":1e999}',
]


def damaged(rng: random.Random, value: Any) -> Any:
    """Return the value with one part of it replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(5):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, key: rng.choice(ODD)}
            case 2:
                return {**value, str(rng.choice(ODD))[:50]: rng.choice(ODD)}
            case _:
                return {**value, key: damaged(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], damaged(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


def body_for(rng: random.Random) -> bytes:
    """Return a request's body."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    run: Any = RUN
    for _ in range(rng.randrange(4)):
        run = damaged(rng, run)
    return json.dumps({"runs": [run, RUN]} if rng.random() < 0.2 else run).encode("utf-8", "surrogatepass")


def request_for(rng: random.Random, routes: list[tuple[str, str]]) -> tuple[str, str, bytes, dict[str, str]]:
    """Return method, path, body and headers of one request."""
    method, path = rng.choice(routes) if rng.random() < 0.6 else ("POST", "/runs")
    while "{" in path:
        path = path.replace(path[path.index("{") : path.index("}") + 1], _quoted(rng.choice(ODD)), 1)
    if method == "GET" and rng.random() < 0.7:
        name = rng.choice(["limit", "cursor", "status", "after", "since", "until", "reason", "q", "tenant"])
        path += f"?{name}={_quoted(rng.choice(ODD))}"
    headers = {"Content-Type": rng.choice(["application/json", "application/json", "text/plain", "application/xml"])}
    if rng.random() < 0.3:
        headers["Idempotency-Key"] = rng.choice(["k", "k" * 300, " ", f"k{rng.randrange(20)}"])
    if rng.random() < 0.1:
        headers["Last-Event-ID"] = rng.choice(["-1", "x", "99999999999999999999"])
    return method, path, b"" if method == "GET" else body_for(rng), headers


def _quoted(value: Any) -> str:
    from urllib.parse import quote

    return quote(str(value).encode("utf-8", "surrogatepass")[:2000], safe="")


def fault_in(status: int, headers: Any, text: bytes) -> str | None:
    """Return what is wrong with an answer, if anything is."""
    if status >= 500:
        return f"status {status}"
    if b"Traceback" in text:
        return "a stack trace"
    if status >= 400:
        if not headers.get("content-type", "").startswith("application/problem+json"):
            return f"status {status} without a problem document"
        if not {"type", "title", "status", "detail"} <= set(json.loads(text)):
            return "a problem document that lacks a member"
    return None


def ask(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Return status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def campaign(rng: random.Random, requests: int) -> list[str]:
    """Send the requests and return the faults found."""
    document = json.loads(ask("GET", "/openapi.json")[2])
    routes = [(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs]
    faults: list[str] = []
    statuses: dict[int, int] = {}
    for number in range(requests):
        method, path, body, headers = request_for(rng, routes)
        try:
            status, answered, text = ask(method, path, body, headers)
            fault = fault_in(status, answered, text)
            statuses[status] = statuses.get(status, 0) + 1
        except (OSError, http.client.HTTPException) as error:
            fault = f"no answer: {error!r}"
        if fault:
            faults.append(f"request {number}: {method} {path[:80]} {body[:200]!r}: {fault}")
    print("answers by status:", dict(sorted(statuses.items())))
    return faults


def main() -> int:
    """Run a campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=5000)
    given = parser.parse_args()
    command = [sys.executable, "-m", "durable_agent"]
    with tempfile.TemporaryDirectory(prefix="durable-agent-fuzz-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            url = postgres.urls.url
            upgrade(url)
            environment = {**os.environ, "DATABASE_URL": url, "DATABASE_DIRECT_URL": url}
            with (Path(folder) / "api.log").open("wb") as log:
                api = subprocess.Popen(
                    [*command, "api", "--port", str(PORT)], env=environment, stdout=log, stderr=log,
                    preexec_fn=dying_with(os.getpid()),
                )  # fmt: skip
                faults = _with_api(api, given)
            doctor = subprocess.run([*command, "doctor"], env=environment, capture_output=True, text=True, check=False)
            if " fail " in doctor.stdout:
                faults.append("doctor: " + doctor.stdout)
    for fault in faults[:20]:
        print("FAULT ", fault)
    print(f"seed {given.seed}: {given.requests} requests, {len(faults)} faults")
    return int(bool(faults))


def _with_api(api: subprocess.Popen[bytes], given: argparse.Namespace) -> list[str]:
    try:
        for _ in range(200):
            try:
                ask("GET", "/livez")
                break
            except OSError:
                time.sleep(0.1)
        faults = campaign(random.Random(given.seed), given.requests)
        if ask("GET", "/readyz")[0] != 200:
            faults.append("the API is not ready afterwards")
        return faults
    finally:
        api.terminate()
        api.wait(20)


if __name__ == "__main__":
    sys.exit(main())
