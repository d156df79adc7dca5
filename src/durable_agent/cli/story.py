"""A run told in plain lines, for a terminal or a log: what a person who waits for it wants to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from durable_agent.cli.tree import shown

_BLOCKED = {
    "approval": "manual approval", "input": "an answer", "signal": "a signal", "timer": "a timer",
    "steps": "the steps it added", "run": "another run", "unknown_effect": "an unknown effect",
}  # fmt: skip
_RESUMED = {"approved": "approval_received", "rejected": "approval_rejected", "responded": "answer_received",
            "signalled": "signal_received", "happened": "effect_settled", "resend": "effect_sent_again"}  # fmt: skip


@dataclass(slots=True)
class Story:
    """What was told so far; files are told of after the step that made them."""

    files: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, event: dict[str, Any], run: Callable[[], dict[str, Any]]) -> Iterator[str]:
        """Yield the lines an event is worth; `run` is asked for a step's result only where it is told."""
        step, data = event["step"], event["data"]
        match event["type"]:
            case "run.created":
                yield f"[workflow] id={event['run_id']} started"
            case "step.succeeded":
                yield f"[step] {shown(step)}={self._result(run(), step)}"
                for name in self.files.pop(step, ()):
                    yield f"[artifact] {shown(name)}"
            case "step.artifact":
                self.files.setdefault(step, []).append(data["name"])
            case "step.waiting":
                yield f"[step] {shown(step)}=blocked({_BLOCKED.get(data['kind'], data['kind'])})"
                if data["kind"] in ("approval", "input", "unknown_effect"):
                    yield f"[wait] {data['wait']} `durable-agent waits {_verb(data['kind'])} {data['wait']}`"
            case "step.answered" if data["decision"] in _RESUMED:
                yield f"[resume] {_RESUMED[data['decision']]}"
            case "step.failed" if "retry_in_s" in data:
                yield f"[step] {shown(step)}=failed({shown(data.get('message', ''))}), again in {data['retry_in_s']:.1f} s"
            case "step.dead_letter":
                yield f"[step] {shown(step)}=dead_letter({data['reason']}: {shown(data.get('message', ''))})"
            case "run.failed" | "run.cancelled" | "run.compensating":
                yield f"[workflow] {event['type'].removeprefix('run.')}"
            case _:
                return

    def _result(self, run: dict[str, Any], step: str) -> str:
        output = next((s["output"] for s in run["steps"] if s["name"] == step), None)
        decision = output.get("decision") if isinstance(output, dict) else None
        return shown(decision)[:200] if isinstance(decision, str) else "ok"


def _verb(kind: str) -> str:
    return {"approval": "approve", "input": "respond", "unknown_effect": "settle"}[kind]
