"""The steps that the engine runs in the comparison: the same counter and the same long step as the others have."""

from __future__ import annotations

import os
from pathlib import Path

from on_durable_agent import OnDurableAgent

from durable_agent import tool

_PEER = OnDurableAgent(Path(os.environ["PEER_FOLDER"]))


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing."""
    _PEER.tick()


@tool("hold", effect="safe")
async def hold() -> None:
    """Take a time."""
    await _PEER.hold()
