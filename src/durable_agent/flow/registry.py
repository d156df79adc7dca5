"""What one worker offers: the tools of its modules by name, the graphs they define, and models of their own.

Nothing is registered globally: a worker is given modules and collects what it finds in them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping

from durable_agent.errors import InvalidRequest
from durable_agent.flow.builder import Graph
from durable_agent.flow.model import ChatModel
from durable_agent.flow.tools import Tool


class Registry:
    """The tools one worker offers, by name. `models` are the authors' own by `provider:name`."""

    def __init__(
        self, tools: Iterable[Tool] = (), graphs: Iterable[Graph] = (), models: Mapping[str, ChatModel] | None = None
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self.graphs: tuple[Graph, ...] = tuple(graphs)
        self.models: dict[str, ChatModel] = dict(models or {})
        for one in tools:
            self.add(one)

    @classmethod
    def from_modules(cls, modules: Iterable[str]) -> Registry:
        """Return the tools found in the modules, imported by name. Raises InvalidRequest for one that cannot be."""
        registry, graphs = cls(), dict[str, Graph]()
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise InvalidRequest(
                    f"module {name!r} cannot be imported: {error}; give importable names, with PYTHONPATH set",
                    field="MODULE",
                ) from error
            for value in vars(module).values():
                if isinstance(value, Tool):
                    registry.add(value)
                elif isinstance(value, Graph):
                    graphs[value.name] = value
                    for predicate in value.predicates:
                        registry.add(predicate)
                elif not isinstance(value, type) and isinstance(value, ChatModel):
                    registry.add_model(value)
        registry.graphs = tuple(graphs.values())
        return registry

    def add(self, one: Tool) -> None:
        """Offer a tool. Raises InvalidRequest when another function has its name."""
        known = self._tools.setdefault(one.name, one)
        if known.function is not one.function:
            raise InvalidRequest(f"two functions are named tool {one.name!r}; rename one", field="name")

    def add_model(self, one: ChatModel) -> None:
        """Offer a model. Raises InvalidRequest when another one has its name."""
        if self.models.setdefault(f"{one.provider}:{one.name}", one) is not one:
            raise InvalidRequest(f"two models are named {one.provider}:{one.name}; rename one", field="name")

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        return self._tools.get(name)

    def including(self, more: Iterable[Tool]) -> Registry:
        """Return a registry with these tools beside its own, which come first where names are the same."""
        added = (one for one in more if one.name not in self._tools)
        return Registry([*self._tools.values(), *added], self.graphs, self.models)

    def classes(self) -> dict[str, str]:
        """Return the class of each tool that must not simply be called again when its attempt is lost."""
        return {one.name: one.effect for one in self if one.effect in ("verify", "manual")}

    def names(self) -> tuple[str, ...]:
        """Return the names offered, sorted."""
        return tuple(sorted(self._tools))

    def __iter__(self) -> Iterator[Tool]:
        """Iterate over the tools by name."""
        return iter(self._tools[name] for name in self.names())

    def __len__(self) -> int:
        """Return how many tools are offered."""
        return len(self._tools)
