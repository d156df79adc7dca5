"""The published document says what the API really answers: each operation is asked on a live one, and held against it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from durable_agent.api.app import create_app
from durable_agent.api.document import ANSWERS, RAW
from durable_agent.settings import Settings
from tests.support import mcp_servers, story
from tests.support.postgres import Database
from tests.support.server import Api, serving, working

SCRIPT = Path(__file__).parents[2] / "scripts/openapi.py"
MODULES = ("tests.support.tools", "tests.support.outside", "workers.examples.vendor_onboarding")
NOOP = {"name": "a", "tool": "noop"}
UNKNOWN = {"name": "s", "tool": "letter", "input": {"how": "breaks"}, "retry": {"baseS": 0, "maxAttempts": 3}}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, of in document["paths"].items() for method, one in of.items()]


def test_every_operation_says_what_it_answers(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if not status.startswith("2") or status == "204":
                continue
            for media_type, content in response["content"].items():
                if media_type == "application/json":
                    assert "$ref" in content["schema"], (method, path)
                else:
                    assert (method, path) in RAW or media_type == "text/event-stream", (method, path)


def test_every_answer_that_is_described_is_an_operation_s(document: dict[str, Any]) -> None:
    assert {(method, path) for method, path, _ in operations(document)} >= set(ANSWERS) | set(RAW)


def test_every_schema_is_one_and_every_reference_leads_to_one(document: dict[str, Any]) -> None:
    known = document["components"]["schemas"]
    for schema in known.values():
        Draft202012Validator.check_schema(schema)
    assert set(re.findall(r"'#/components/schemas/([^']+)'", str(document))) <= set(known)


def test_an_answer_has_nothing_but_what_is_said(document: dict[str, Any]) -> None:
    known = document["components"]["schemas"]
    assert validator(document, {"$ref": "#/components/schemas/Alive"}).is_valid({"status": "ok"})
    assert not validator(document, {"$ref": "#/components/schemas/Alive"}).is_valid({"status": "ok", "more": 1})
    for name in ("Run", "Step", "Effect", "Agent", "Stats", "Page_RunSummary_", "Items_Worker_"):
        assert known[name]["additionalProperties"] is False


def test_the_committed_document_is_the_one_that_is_served_and_the_console_s_types_are_made_from_it() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_operation_that_takes_a_body_says_so(document: dict[str, Any]) -> None:
    without = {
        (method, path)
        for method, path, one in operations(document)
        if method in ("post", "put") and "requestBody" not in one
    }
    assert without == {("post", "/tool-servers/{server_id}/discover"), ("post", "/ws-tickets")}


async def test_a_body_may_be_left_out_where_the_document_says_so(settings: Settings, document: dict[str, Any]) -> None:
    async with serving(settings) as api:
        for method, path, operation in operations(document):
            body = operation.get("requestBody")
            if body is None and method in ("get", "delete"):
                continue
            place = re.sub(r"\{(?!name|provider)\w+\}", "01890000-0000-7000-8000-000000000000", path)
            answer = await api.http.request(method, place.replace("{name}", "n").replace("{provider}", "p"))
            assert (answer.status_code in (400, 422)) == bool(body and body["required"]), (method, path, answer.text)


async def test_the_limits_of_the_document_are_those_that_hold(settings: Settings) -> None:
    given = {
        "max_body_bytes": 2048,
        "max_batch_bytes": 4096,
        "max_steps": 2,
        "max_depth": 3,
        "payload_limit_bytes": 1024,
    }
    async with serving(settings.model_copy(update=given)) as api:
        document = (await api.http.get("/openapi.json")).json()
        assert {name: one["most"] for name, one in document["x-limits"].items()} == {**given, "max_batch_runs": 1000}
        for path, bytes_ in (("/runs", 2049), ("/runs/batch", 4097)):
            assert (await api.http.post(path, content=b" " * bytes_)).status_code == 413
        for steps, input in ((3, None), (1, [[[[1]]]]), (1, "x" * 1023)):
            body = {"steps": [{**NOOP, "name": f"s{n}"} for n in range(steps)], "input": input}
            assert (await api.http.post("/runs", json=body)).status_code == 422


async def test_each_operation_takes_the_scope_that_the_document_tells(
    settings: Settings, document: dict[str, Any], database: Database
) -> None:
    async with serving(settings) as api:
        keys = {
            scope: (await api.http.post("/keys", json={"name": "k", "scopes": [scope]})).json()["key"]
            for scope in ("read", "write", "operate")
        }
    async with serving(settings) as api:
        for method, path, operation in operations(document):
            place = re.sub(r"\{(?!name|provider)\w+\}", "01890000-0000-7000-8000-000000000000", path)
            for scope, key in keys.items():
                answer = await api.http.request(method, place, content=b"{", headers={"Authorization": f"Bearer {key}"})
                wanted = operation["security"][0]["key"] if operation["security"] else [scope]
                assert (answer.status_code == 403) == (wanted != [scope]), (method, path, scope, answer.text)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    checked = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator({**schema, "components": document["components"]}, format_checker=checked)


@dataclass
class Held:
    """An API each of whose answers is held against the document; `asked` are the operations with their statuses."""

    api: Api
    document: dict[str, Any]
    asked: set[tuple[str, str, int]] = field(default_factory=set)

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = await self.api.http.request(method, path, json=body, **options)
        assert answer.is_success, answer.text
        template = self._template(method.lower(), path)
        self.asked.add((method.lower(), template, answer.status_code))
        if answer.status_code == 204:
            return None
        operation = self.document["paths"][template][method.lower()]
        schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        problems = [
            f"{list(e.absolute_path)}: {e.message}" for e in validator(self.document, schema).iter_errors(answer.json())
        ]
        assert not problems, f"{method} {path}: {problems[:5]}"
        return answer.json()

    def _template(self, method: str, path: str) -> str:
        """Return the template that a path fits, the one with the fewest parameters."""
        found = [
            one for one in self.document["paths"]
            if method in self.document["paths"][one] and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one), path.split("?")[0])
        ]  # fmt: skip
        return min(found, key=lambda one: one.count("{"))


@pytest.fixture
async def held(settings: Settings, document: dict[str, Any], tmp_path: Path) -> AsyncIterator[Held]:
    given = {"secret_key": "a secret", "egress_allow": ("127.0.0.1",), "artifacts": str(tmp_path)}
    async with serving(settings.model_copy(update=given)) as api, working(settings, MODULES, **given):
        yield Held(api, document)


async def test_every_answer_of_a_live_api_is_what_the_document_says(held: Held) -> None:
    await _runs(held)
    await _waits(held)
    await _agents(held)
    await _places(held)
    await _operations(held)
    wanted = set()
    for (method, path), given in ANSWERS.items():
        statuses = [status for status in held.document["paths"][path][method]["responses"] if status.startswith("2")]
        wanted |= {(method, path, int(status)) for status in (given if isinstance(given, dict) else statuses)}
    assert wanted - held.asked == set()


async def _runs(held: Held) -> None:
    body = {
        "goal": "g", "input": {"x": 1}, "metadata": {"m": 1}, "budget": {"tokens": 10**6},
        "steps": [
            {"name": "echo", "tool": "echo", "input": {"a": [1]}, "retry": {"maxAttempts": 2}, "timeoutS": 5},
            {"name": "b", "tool": "noop", "dependsOn": ["echo"], "when": "outputs.echo != null"},
            {"name": "c", "tool": "noop", "dependsOn": [{"step": "b", "when": "output != null"}]},
            {"name": "llm_call.say", "input": {"prompt": "Say something"}},
        ],
    }  # fmt: skip
    run = (await held("POST", "/runs", body, headers={"Idempotency-Key": "k"}))["id"]
    await held("POST", "/runs", body, headers={"Idempotency-Key": "k"})
    await held.api.watch(run)
    await held("POST", "/runs/batch", {"runs": [{"steps": [NOOP]}, {"steps": [NOOP]}]})
    shown = await held("GET", f"/runs/{run}")
    assert {step["status"] for step in shown["steps"]} >= {"succeeded", "skipped"}
    await held("GET", f"/runs/{run}/events?limit=3")
    await held("GET", f"/runs/{run}/events")
    effects = await held("GET", f"/runs/{run}/effects?limit=1")
    assert effects["items"]
    await held("GET", f"/runs/{run}/explain")
    await held("GET", f"/runs/{run}/budget")
    again = await held(
        "POST", f"/runs/{run}/replay", {"from_step": "echo", "mode": "live", "edits": {"echo": {"output": 5}}}
    )
    await held.api.watch(again["id"])
    await held("GET", f"/runs/{again['id']}")
    await held("GET", f"/runs/{run}/diff/{again['id']}")
    failed = (
        await held("POST", "/runs", {"steps": [{"name": "f", "tool": "flaky", "input": {"how": "fatal"}}, NOOP]})
    )["id"]
    await held.api.watch(failed)
    await held("GET", f"/runs/{failed}")
    await held("GET", f"/runs/{run}/diff/{failed}")
    page = await held("GET", "/runs?limit=2")
    await held("GET", f"/runs?cursor={page['next_cursor']}")


async def _waits(held: Held) -> None:
    async def opened(step: dict[str, Any]) -> dict[str, Any]:
        run = (await held("POST", "/runs", {"steps": [step]}))["id"]
        wait = await story.wait_of(held.api, run)
        await held("GET", f"/waits?run_id={run}")
        await held("GET", f"/waits/{wait['id']}")
        await held("GET", f"/runs/{run}")
        await held("GET", f"/runs/{run}/explain")
        return wait

    wait = await opened(
        {"name": "approval.go", "input": {"prompt": "Go on?", "tool": "charge", "arguments": {"amount": 5}}}
    )
    await held("POST", f"/waits/{wait['id']}/approve", {"reason": "fine"})
    await held("GET", "/waits?state=all")
    run = (await held("POST", "/runs", {"graph": "vendor-onboarding", "goal": "vendor onboarding review"}))["id"]
    await held("POST", f"/waits/{(await story.wait_of(held.api, run))['id']}/approve")
    await held.api.watch(run)
    await held("GET", f"/runs/{run}")
    assert (await held("GET", f"/runs/{run}/artifacts"))["items"]
    wait = await opened({"name": "approval.no", "input": {}})
    await held("POST", f"/waits/{wait['id']}/reject", {})
    wait = await opened({"name": "input.ask", "input": {"prompt": "Which?"}})
    await held("POST", f"/waits/{wait['id']}/respond", {"value": {"city": "Basel"}})
    await held("GET", f"/waits/{wait['id']}")
    wait = await opened(UNKNOWN)
    await held("POST", f"/waits/{wait['id']}/settle", {"outcome": "fail"})
    run = (await held("POST", "/runs", {"steps": [{"name": "h", "tool": "hear", "input": {"name": "paid"}}]}))["id"]
    await story.until(held.api, run, "step.waiting")
    await held("GET", f"/runs/{run}/explain")
    for _ in range(2):
        await held("POST", f"/runs/{run}/signals/paid", {"sum": 5}, headers={"Idempotency-Key": "s"})


async def _agents(held: Held) -> None:
    agent = {"name": "researcher", "tools": ["calculator"], "budget": {"tokens": 10**6, "tools": 5},
             "budgets": [{"meter": "tokens", "cap": 10**6, "window_s": 3600}], "concurrency": 2}  # fmt: skip
    made = await held("POST", "/agents", agent)
    await held("PUT", f"/agents/{made['id']}", {**agent, "system": "You research.", "temperature": 0.5, "maxSteps": 5})
    run = (await held("POST", "/runs", {"agent": "researcher", "input": "What is 17*23?"}))["id"]
    await held.api.watch(run)
    await held("GET", f"/runs/{run}")
    assert len((await held("GET", f"/runs/{run}/effects"))["items"]) > 1
    await held("GET", f"/runs/{run}/budget")
    follow = await held("POST", f"/runs/{run}/messages", {"message": "And 18*23?"})
    await held.api.watch(follow["id"])
    await held("POST", "/agents", {"name": "asker", "tools": ["request_human_input"]})
    asking = (await held("POST", "/runs", {"agent": "asker", "input": "Which city?"}))["id"]
    await story.until(held.api, asking, "run.waiting_for_input")
    await held("GET", f"/runs/{asking}/explain")
    await held("POST", f"/runs/{asking}/budget", {"tokens": 10**7, "wall_clock_s": 600})
    await held("GET", f"/runs/{asking}/budget")
    await held("POST", f"/runs/{asking}/messages", {"message": "Basel"})
    shown = (await held("GET", "/agents"))["items"][-1]
    assert shown["budgets"] == (await held("GET", f"/agents/{made['id']}"))["budgets"]
    await held("DELETE", f"/agents/{made['id']}")


async def _places(held: Held) -> None:
    async with mcp_servers.offering(mcp_servers.a_tool()) as url:
        made = await held("POST", "/tool-servers", {"name": "files", "url": url, "token": "t"})
        place = f"/tool-servers/{made['id']}"
        await held("GET", place)
        found = await held("POST", f"{place}/discover")
        await held("GET", place)
        await held("POST", f"{place}/approve", {"digest": found["digest"]})
        await held("GET", "/tool-servers")
        await held("PUT", place, {"name": "files2", "url": url})
        await held("DELETE", place)
    price = {"input_usd": "3", "output_usd": 15, "cache_read_usd": 0.3}
    await held("PUT", "/models/openai/gpt-x", {"price": price, "window_tokens": 100_000})
    await held("PUT", "/models/openai/gpt-y", {})
    await held("GET", "/models")
    await held("DELETE", "/models/openai/gpt-y")
    await held("PUT", "/gates/provider:openai", {"requests_per_minute": 60})
    await held("GET", "/gates")
    await held("GET", "/graphs")
    await held("GET", "/graphs/vendor-onboarding")


async def _operations(held: Held) -> None:
    run = (await held("POST", "/runs", {"steps": [{"name": "w", "tool": "forever"}]}))["id"]
    await story.until(held.api, run, "step.claimed")
    await held("GET", f"/runs/{run}/explain")
    await held("POST", f"/runs/{run}/pause", {"reason": "why not"})
    await held("POST", f"/runs/{run}/resume")
    await held("POST", f"/runs/{run}/cancel")
    dead = await held("GET", "/dead-letters?limit=1")
    assert dead["counts"]
    await held("POST", "/dead-letters/redrive", {"run_id": dead["items"][0]["run_id"]})
    await held("GET", "/workers")
    for path in ("/livez", "/readyz", "/healthz", "/stats", "/stats?window_s=60"):
        await held("GET", path)
    await held("POST", "/ws-tickets")
    first = await held("POST", "/keys", {"name": "k", "scopes": ["admin"], "expires_in_days": 3})
    admin = {"Authorization": f"Bearer {first['key']}"}
    await held("POST", "/keys", {"name": "k2"}, headers=admin)
    keys = (await held("GET", "/keys", headers=admin))["items"]
    await held("DELETE", f"/keys/{keys[0]['id']}", headers=admin)
    await held("GET", "/keys", headers=admin)
