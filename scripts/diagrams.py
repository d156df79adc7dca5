"""Draw the state machines of docs/concepts.md from the tables in core/states.py.

python scripts/diagrams.py            # writes them
python scripts/diagrams.py --check    # exits 1 when they are not what the tables say
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from durable_agent.core.states import FINAL_RUN, FINAL_STEP, RUN_TABLE, STEP_TABLE

PAGE = Path(__file__).parents[1] / "docs/concepts.md"


def draw(table: Mapping[tuple[StrEnum, StrEnum], StrEnum], final: frozenset[StrEnum]) -> str:
    """Return a machine as a Mermaid state diagram; an event that moves nothing is left out."""
    edges: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (state, event), target in table.items():
        if state != target:
            edges[state.value, target.value].append(event.value.split(".")[1])
    reached = {state for edge in edges for state in edge}
    lines = ["stateDiagram-v2", "  [*] --> pending"]
    lines += [f"  {state} --> {target}: {', '.join(events)}" for (state, target), events in edges.items()]
    lines += [
        f"  {state.value} --> [*]" for state in type(next(iter(final))) if state in final and state.value in reached
    ]
    return "\n".join(lines)


def drawn(page: str) -> str:
    """Return the page with its two diagrams as the tables make them."""
    diagrams = iter([draw(STEP_TABLE, FINAL_STEP), draw(RUN_TABLE, FINAL_RUN)])  # type: ignore[arg-type]
    return re.sub(r"```mermaid\n.*?```", lambda _: f"```mermaid\n{next(diagrams)}\n```", page, flags=re.DOTALL)


def main() -> int:
    """Write or check."""
    page = PAGE.read_text()
    if "--check" in sys.argv:
        return int(drawn(page) != page)
    PAGE.write_text(drawn(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
