"""What a handler knows about the attempt it is part of, and what it may do while it runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import orjson

from durable_agent.core.effects import Ledger
from durable_agent.core.events import digest as digest_of
from durable_agent.core.graph import plan
from durable_agent.core.outcomes import Emitted, Stored, Suspended
from durable_agent.core.promotion import spawn_prefix
from durable_agent.core.records import Claim, RunSpec, StepSpec, WaitKind
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.errors import Expired, FatalError, Rejected
from durable_agent.flow.effects import Calls, Order
from durable_agent.flow.encoding import encode
from durable_agent.flow.link import Link
from durable_agent.flow.llm import Asked, Conversation, converse
from durable_agent.flow.model import Message, Reply, ToolSpec
from durable_agent.flow.steps import Approval, Step, mapped, seconds, step_specs
from durable_agent.flow.tools import Tool

MAX_SPAWNED = 10_000
EVENT_LIMIT_BYTES = 262_144


class Context:
    """One attempt of one step, as its handler sees it.

    What is awaited here is recorded: when the handler runs again after a crash or a wait, it gets the recorded results
    and nothing is done twice. A wait ends the attempt and frees the worker; the handler then starts from its beginning.
    """

    def __init__(
        self, claim: Claim, link: Link, *, limit_bytes: int = 262_144, within: tuple[Calls, str] | None = None
    ) -> None:
        self._claim = claim
        self._link = link
        self._nested = within is not None
        self._limit_bytes = limit_bytes
        self._spawned: set[str] = set()
        if within is not None:
            self.calls, self._key = within
        else:
            ledger = Ledger(claim.effects, claim.answers, sealed=claim.replay is not None)
            self.calls = Calls(claim, link, ledger, self._encode, self.within, claim.in_doubt)
            self._key = claim.idempotency_key

    @property
    def link(self) -> Link:
        """The way to the engine and to the worker's tools; not for authors."""
        return self._link

    @property
    def claim(self) -> Claim:
        """The claim this attempt serves; not for authors."""
        return self._claim

    @property
    def limit_bytes(self) -> int:
        """The largest result of the step; not for authors."""
        return self._limit_bytes

    def _encode(self, value: Any) -> bytes:
        return encode(value, self._limit_bytes)

    def _small(self, value: Any) -> bytes:
        """Encode what goes into an event or a question: watchers and people read it, so it has a limit of its own."""
        return encode(value, min(self._limit_bytes, EVENT_LIMIT_BYTES))

    def within(self, key: str) -> Context:
        """Return the context of a call inside this attempt; not for authors."""
        return Context(self._claim, self._link, limit_bytes=self._limit_bytes, within=(self.calls, key))

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        return self._claim.lease.run_id

    @property
    def step(self) -> str:
        """The step's name."""
        return self._claim.name

    @property
    def attempt(self) -> int:
        """Which try this is, from 1; a lost lease does not count."""
        return self._claim.attempt

    @property
    def idempotency_key(self) -> str:
        """A key for the outside world: the same at every attempt of this call, another for every other call."""
        return self._key

    @property
    def goal(self) -> str | None:
        """The run's goal, if it has one."""
        return self._claim.goal

    @property
    def run_input(self) -> Any:
        """The run's input."""
        return self._claim.run_input

    @property
    def input(self) -> Any:
        """The step's input as submitted."""
        return self._claim.input

    @property
    def parents(self) -> Mapping[str, Any]:
        """The outputs of the succeeded steps this one waited for, by name."""
        return self._claim.parents

    async def emit(self, type: str, data: Any = None) -> None:
        """Record an event of the author's own; it reaches watchers once committed, and only while the lease is held.

        Raises LeaseLost (which an `except Exception` does not catch).
        """
        plain = orjson.loads(self._small(data))
        if not isinstance(type, str) or not 1 <= len(type) <= 200:
            raise FatalError(f"an event's type is a text of 1 to 200 characters, not {str(type)[:80]!r}")
        if self._claim.replay is None:
            await self._link.tell(Emitted(self._claim.lease, type, plain))

    async def progress(self, fraction: float, text: str = "") -> None:
        """Tell watchers how far the step is: a fraction from 0 to 1 and a word to it."""
        await self.emit("progress", {"fraction": min(1.0, max(0.0, float(fraction))), "text": text})

    async def call(self, tool: str | Tool, approval: Approval | None = None, /, **arguments: Any) -> Any:
        """Call a tool as a recorded effect and return its result as JSON gives it back.

        Its intent is committed before the call, its result after it; a resumed attempt gets the recorded result. What
        becomes of a call that was begun and never heard of again is decided by the tool's effect class. With an
        `approval` the call is made only if it was given for exactly this tool and these arguments, and uses it up.

        Raises what the tool raises; FatalError for a tool or an argument that does not fit; EffectRefused when a person
        decided that an unknown call failed; Refused for an approval that does not allow it.
        """
        self._outermost("call")
        found = tool if isinstance(tool, Tool) else self._link.find(tool)
        if found is None:
            raise FatalError(f"this worker does not offer tool {tool!r}")
        if approval is not None and not approval.approved:
            raise Rejected(f"the approval for {found.name!r} was not given")
        return await self.calls.call(found, arguments, approval.wait_id if approval else None)

    async def llm(
        self, prompt: str | Sequence[Message] | Conversation, *, model: str = "default", system: str | None = None,
        tools: Sequence[ToolSpec] = (), max_tokens: int = 4096, temperature: float | None = None,
        timeout: timedelta | float = 600.0,
    ) -> Reply:  # fmt: skip
        """Ask a model as a recorded effect and return its answer; a resumed attempt gets the recorded one.

        `prompt` is a text, messages, or a Conversation, which takes the answer in. Its upper bound is reserved from the
        run's budget before, what it used is charged after; watchers hear it come. Raises FatalError for a model that is
        not known, BudgetExceeded for one without a price where money is limited, and what the provider answers:
        RateLimited, RetryableError, UnknownOutcome.
        """
        self._outermost("llm")
        match prompt:
            case str():
                said = Conversation([{"role": "user", "text": prompt}])
            case Conversation():
                said = prompt
            case _:
                said = Conversation(list(prompt))
        told = {"role": "system", "text": system}
        if system is not None and said.messages[:1] != [told]:
            if said.seen:
                raise FatalError(
                    "a conversation that has begun takes no other `system`: give it with the first question"
                )
            said.messages.insert(0, told)
        asked = Asked(model, tuple(tools), max_tokens, temperature, seconds(timeout) or 600.0)
        return await converse(lambda tool, order: self.order(tool, {}, order), self._link, said, asked)

    async def order(self, tool: Tool, given: Mapping[str, Any], order: Order, approval: Any = None) -> Any:
        """Make a recorded call on terms of its own; not for authors. See `call`."""
        self._outermost("call")
        return await self.calls.call(tool, given, approval, order)

    def now(self) -> datetime:
        """Return the time, recorded: a resumed attempt gets the same (UTC)."""
        self._outermost("now")
        return datetime.fromisoformat(self.calls.note("ctx.now", lambda: datetime.now(UTC).isoformat()))

    def uuid(self) -> UUID:
        """Return a random UUID, recorded: a resumed attempt gets the same."""
        self._outermost("uuid")
        return UUID(self.calls.note("ctx.uuid", lambda: str(uuid4())))

    def random(self) -> float:
        """Return a random number in [0, 1), recorded: a resumed attempt gets the same."""
        self._outermost("random")
        return float(self.calls.note("ctx.random", random.random))

    async def sleep(self, duration: timedelta | float) -> None:
        """Wait so long (seconds, or a timedelta) without a worker: the timer survives everything."""
        wait_s = seconds(duration) or 0.0
        await self._wait(WaitKind.TIMER, "sleep", {"seconds": wait_s}, wait_s)

    async def wait_for_signal(self, name: str, *, timeout: timedelta | float | None = None) -> Any:
        """Return the payload of the run's next signal of that name, which may have come before. Raises Expired."""
        answer = await self._wait(WaitKind.SIGNAL, name, {}, seconds(timeout))
        if answer["decision"] == Decision.EXPIRED:
            raise Expired(f"signal {name!r} did not come in time")
        return answer["value"]

    async def approval(
        self, tool: str | Tool | None = None, arguments: Mapping[str, Any] | None = None, *, prompt: str = "",
        expires: timedelta | float | None = None, allow_self: bool = True, on_reject: str = "raise",
    ) -> Approval:  # fmt: skip
        """Ask a person to approve, and return the approval; it is bound to this tool and these arguments.

        `expires` from now nobody can give it any more, which rejects it. `allow_self` False forbids it to whoever
        started the run. Raises Rejected, unless `on_reject` is "return".
        """
        name = tool.name if isinstance(tool, Tool) else tool or ""
        text = self._encode(dict(arguments or {}))
        request = {"tool": name or None, "arguments": dict(arguments or {}), "prompt": prompt}
        answer = await self._wait(
            WaitKind.APPROVAL, name, request, seconds(expires), sha=approval_digest(name, text), allow_self=allow_self
        )
        granted = answer["decision"] == Decision.APPROVED
        if not granted and on_reject != "return":
            why = f": {answer['reason']}" if answer["reason"] else ""
            raise Rejected(f"rejected by {answer['by'] or 'nobody, in time'}{why}")
        return Approval(granted, answer["by"], answer["reason"], answer["wait"])

    async def ask(
        self, prompt: str, *, schema: Mapping[str, Any] | None = None, name: str = "input",
        expires: timedelta | float | None = None,
    ) -> Any:  # fmt: skip
        """Ask a person and return the answer. Raises Rejected when they decline, Expired when nobody answers in time."""
        answer = await self._wait(WaitKind.INPUT, name, {"prompt": prompt, "schema": schema}, seconds(expires))
        match answer["decision"]:
            case Decision.RESPONDED:
                return answer["value"]
            case Decision.EXPIRED:
                raise Expired(f"nobody answered in time: {prompt}")
            case _:
                raise Rejected(f"{answer['by']} declined to answer: {answer['reason'] or prompt}")

    async def spawn(self, steps: Sequence[Step | Mapping[str, Any]], *, name: str = "spawn") -> list[Any]:
        """Add steps to the run and return their outputs in order when all have ended; a skipped one gives None.

        Their names are prefixed with this step's, so that they are unique in the run; their conditions know them as given here.
        """
        specs = step_specs(steps)
        if not specs:
            return []
        if name in self._spawned:
            raise FatalError(f"ctx.spawn or ctx.map was called twice with name={name!r}; give each a name of its own")
        self._spawned.add(name)
        if len(specs) > MAX_SPAWNED:
            raise FatalError(f"{len(specs)} steps are more than the {MAX_SPAWNED} a step may add")
        plan(specs, max_steps=MAX_SPAWNED)
        prefix = spawn_prefix(self.step, name)
        specs = tuple(_prefixed(prefix, spec) for spec in specs)
        sha = digest_of(self._encode([[spec.name, spec.tool, spec.input] for spec in specs]))
        answer = await self._wait(WaitKind.STEPS, name, {"steps": len(specs)}, None, sha=sha, steps=specs)
        if answer["reason"]:
            raise FatalError(answer["reason"])
        return [await self._link.whole(one["output"]) for one in answer["value"]]

    async def map(
        self, tool: str, items: Sequence[Any], *, concurrency: int = 10, name: str = "map", argument: str = "item",
        **fields: Any,
    ) -> list[Any]:  # fmt: skip
        """Run a tool over a list as steps of their own, at most `concurrency` at once; return the outputs by index.

        Each item is passed as `argument`; with an empty `argument` the items are mappings of arguments themselves.
        """
        return await self.spawn(
            mapped(tool, items, concurrency=concurrency, name="item", argument=argument, **fields), name=name
        )

    async def run(
        self, steps: Sequence[Step | Mapping[str, Any]], *, goal: str | None = None, input: Any = None, name: str = "run",
    ) -> dict[str, Any]:  # fmt: skip
        """Start a run of its own and return what it came to: its id, status, the outputs of its last steps, its error."""
        specs = step_specs(steps)
        plan(specs, max_steps=MAX_SPAWNED)
        sha = digest_of(self._encode([goal, input, [[spec.name, spec.tool, spec.input] for spec in specs]]))
        run = RunSpec(specs, goal, input)
        answer = await self._wait(WaitKind.RUN, name, {"steps": len(specs), "goal": goal}, None, sha=sha, run=run)
        if answer["reason"]:
            raise FatalError(answer["reason"])
        outputs = (answer["value"]["output"] or {}).items()
        return {**answer["value"], "output": {step: await self._link.whole(one) for step, one in outputs} or None}

    async def artifact(self, name: str, content: bytes | str | Any, *, media_type: str | None = None) -> dict[str, Any]:
        """Store a file of the step's under a name and return its name, SHA-256 and size.

        Bytes and text are kept as they are, anything else as JSON. The same name again replaces it. Raises FatalError for
        what is too large or no JSON.
        """
        if not 1 <= len(name) <= 200 or not name.isprintable() or "/" in name:
            raise FatalError(f"{name[:80]!r} is no artifact name: 1 to 200 printable characters, no '/'")
        kind = media_type or _media_type(content)
        raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
        data = self._encode(content) if raw is None else raw
        if len(data) > self._limit_bytes:
            raise FatalError(f"artifact {name!r} has {len(data)} bytes, more than {self._limit_bytes}")
        lease, digest = self._claim.lease, digest_of(data)
        if self._claim.replay is None:
            await self._link.put(data)
            own = uuid5(lease.run_id, f"{lease.step_no}|{name}")
            await self._link.tell(Stored(lease, own, name, kind, digest, len(data)))
        return {"artifact": name, "sha256": digest, "bytes": len(data), "media_type": kind}

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Open a transaction of the engine's database: `async with ctx.transaction() as conn`.

        What is written on `conn` (a psycopg AsyncConnection) is committed together with the step's result when the
        handler has returned, or not at all. One per attempt.
        """
        self._outermost("transaction")
        return self._link.transaction(self._claim)

    def _outermost(self, what: str) -> None:
        if self._nested:
            raise FatalError(f"a tool that is called by ctx.call cannot use ctx.{what}; make it a step of its own")

    async def _wait(
        self, kind: WaitKind, name: str, request: Any, expires_s: float | None, *, sha: str | None = None,
        allow_self: bool = True, steps: Any = (), run: RunSpec | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return what the wait came to, or end the attempt and wait."""
        self._outermost(kind.value)
        text = self._small(request)
        request, digest = orjson.loads(text), sha or digest_of(text)
        found = await self.calls.in_turn(lambda: self.calls.ledger.answer(kind, name, digest))
        if found is None:
            asked = Suspended(
                self._claim.lease, kind, name, request, digest, expires_s, allow_self, steps=steps, run=run
            )
            await self.calls.suspend(asked)
        return {**found.answer, "wait": found.wait_id}


def _media_type(content: Any) -> str:
    match content:
        case bytes():
            return "application/octet-stream"
        case str():
            return "text/plain; charset=utf-8"
        case _:
            return "application/json"


def _prefixed(prefix: str, spec: StepSpec) -> StepSpec:
    depends = tuple(replace(d, step=f"{prefix}{d.step}") for d in spec.depends_on)
    return replace(spec, name=f"{prefix}{spec.name}", depends_on=depends)
