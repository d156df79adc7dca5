"""What an MCP server offers: read with suspicion, pinned by a digest, and the arguments that fit it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp import Client

from durable_agent.agents.hidden import hides, shown
from durable_agent.core.events import digest, dumps
from durable_agent.errors import FatalError
from durable_agent.flow.tools import Effect

MAX_TOOLS = 1000

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool as its server describes it; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    effect: Effect
    annotations: Mapping[str, Any] = field(default_factory=dict)
    # Compiled from `parameters` where a server offers it.
    validator: Any = field(default=None, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of all that a model is told of it and all that says what a call may do."""
        return digest(dumps(self._facts()))

    def _facts(self) -> list[Any]:
        return [self.name, self.description, dict(self.parameters), dict(self.annotations)]


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a server offers, by name, and the digest that pins it."""

    server: str
    title: str
    version: str
    protocol: str
    tools: tuple[RemoteTool, ...]
    digest: str


class Drifted(FatalError):
    """The server does not offer what was pinned; nothing was called."""

    def __init__(self, server: str, pinned: str, found: str, changes: str) -> None:
        super().__init__(
            f"MCP server {server!r} does not offer what was approved: its tools had digest {pinned[:12]} and have"
            f" {found[:12]} now ({changes}); nothing was called. Discover it again, look at them and approve them"
        )
        self.server, self.pinned, self.found, self.changes = server, pinned, found, changes


def effect_of(annotations: types.ToolAnnotations | None) -> Effect:
    """Return what a repeated call may do, by the server's own word; without its word, a person decides.

    As the protocol has it, a tool is destructive unless it says that it is not.
    """
    match annotations:
        case types.ToolAnnotations(read_only_hint=True):
            return "safe"
        case types.ToolAnnotations(idempotent_hint=True, destructive_hint=False):
            return "idempotent"
        case _:
            return "manual"


def digest_of(tools: Iterable[RemoteTool]) -> str:
    """Return the SHA-256 over all tools, whatever their order."""
    return digest(dumps([tool._facts() for tool in sorted(tools, key=lambda tool: tool.name)]))


def offered(name: str, client: Client, listed: Sequence[types.Tool]) -> Discovery:
    """Return what a server lists. Raises FatalError for what must not come before a model."""
    if len(listed) > MAX_TOOLS:
        raise FatalError(f"MCP server {name!r} offers more than {MAX_TOOLS} tools")
    tools = tuple(sorted((_tool(name, tool) for tool in listed), key=lambda tool: tool.name))
    if len({tool.name for tool in tools}) < len(tools):
        raise FatalError(f"MCP server {name!r} offers two tools of one name")
    found = client.server_info
    title, its_version = (found.name, found.version) if found else ("", "")
    return Discovery(
        name, shown(title)[:200], shown(its_version)[:200], client.protocol_version, tools, digest_of(tools)
    )


def named(offer: Discovery, name: str) -> RemoteTool:
    """Return the tool of that name. Raises FatalError for none."""
    for tool in offer.tools:
        if tool.name == name:
            return tool
    raise FatalError(f"MCP server {offer.server!r} offers no tool {name!r}")


def check(tool: RemoteTool, arguments: Any) -> None:
    """Return if the arguments fit. Raises FatalError naming the field that does not."""
    if not isinstance(arguments, dict):
        raise FatalError(f"tool {tool.name!r}: its arguments are a JSON object, not {type(arguments).__name__}")
    for error in tool.validator.iter_errors(arguments):
        field_ = getattr(error.kind, "property", None) or next(iter(getattr(error.kind, "unexpected", ())), None)
        path = ".".join(map(str, [*error.instance_path, *([field_] if field_ else [])])) or "input"
        raise FatalError(f"tool {tool.name!r}: argument {path!r}: {error.message[:300]}")


def changes(known: Mapping[str, str] | None, tools: Sequence[RemoteTool]) -> str:
    """Return in words what is offered otherwise than by the `known` digests of tools."""
    if known is None:
        return "what has changed is not recorded"
    now = {tool.name: tool.digest for tool in tools}
    found = {
        "added": now.keys() - known.keys(), "removed": known.keys() - now.keys(),
        "changed": {name for name in now.keys() & known.keys() if now[name] != known[name]},
    }  # fmt: skip
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in found.items() if names)


def _tool(server: str, tool: types.Tool) -> RemoteTool:
    said = f"MCP server {server!r}: tool {ascii(tool.name)[:140]}"
    if not _NAME.match(tool.name):
        raise FatalError(f"{said} is refused: a name has 1 to 128 of A-Z a-z 0-9 . _ -")
    annotations = tool.annotations.model_dump(mode="json", exclude_none=True) if tool.annotations else {}
    for text in _texts([tool.description or "", tool.input_schema, annotations]):
        if found := hides(text):
            near = ascii(text[max(0, found.start() - 20) : found.end() + 19])
            raise FatalError(f"{said} is refused: U+{ord(found[0]):04X} is hidden in its description, near {near}")
    try:
        made = RemoteTool(
            tool.name, tool.description or "", tool.input_schema, effect_of(tool.annotations), annotations,
            _validator(tool.input_schema),
        )  # fmt: skip
        made.digest  # noqa: B018  refused here rather than in the middle of a run
    except (ValueError, TypeError) as error:
        raise FatalError(f"{said} is refused: the schema of its arguments is none: {str(error)[:300]}") from None
    return made


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, the names of its fields included. Does not recurse."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case dict() as mapping:
                left += [*mapping, *mapping.values()]
            case list() as items:
                left += items


def _validator(schema: Mapping[str, Any]) -> Any:
    import jsonschema_rs

    # Nothing is fetched, whatever the schema refers to, and no pattern runs away.
    patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000)
    return jsonschema_rs.validator_for(dict(schema), offline=True, pattern_options=patterns)
