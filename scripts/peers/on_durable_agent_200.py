"""durable-agent with as many slots as docs/operating.md advises for steps of milliseconds; what slots do not change is not measured again."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from driver import main
from on_durable_agent import OnDurableAgent

_SAME = "as with 50 slots: one run at a time, or none"


class OnDurableAgent200(OnDurableAgent):
    """Two worker processes of 200."""

    slots: ClassVar[int] = 200
    about = replace(
        OnDurableAgent.about,
        name="durable-agent, 200 slots",
        settings=("MAX_CONCURRENT_TASKS=200, the rest as installed", *OnDurableAgent.about.settings[1:]),
        absent=dict.fromkeys(("W4", "W5", "W6"), _SAME),
        notes={},
    )


if __name__ == "__main__":
    main(OnDurableAgent200)
