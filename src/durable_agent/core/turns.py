"""Whose turn it is: how a worker's free slots are shared among tenants, and within a tenant among routes.

A route is a (queue, lane, tool) of one tenant; the lane is the agent's or graph's name. Every tenant with ready work
gets an equal share, so a flood by one starves nobody (R2). Within a tenant, the highest priority goes first; routes
of the same priority share equally. The rotation moves on at each call, so that with fewer slots than turns everyone
is served in due course.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from durable_agent.core.records import MAX_PRIORITY, Tenant, Turn

_T = TypeVar("_T")

# The claim order is one integer: the priority's rank in the upper bits, below it the run's age in microseconds.
_AGE_BITS = 52


def claim_order(priority: int, created_us: int) -> int:
    """Return the claim order of a step: lower goes first. `priority` from -1000 (last) to 1000, age in microseconds."""
    return ((MAX_PRIORITY - priority) << _AGE_BITS) | created_us


def priority_rank(ord_: int) -> int:
    """Return the rank of the priority in a claim order: 0 is the most urgent."""
    return ord_ >> _AGE_BITS


@dataclass(frozen=True, slots=True)
class Share:
    """What to take of one route: at most `limit` steps, from `ord` on."""

    route: int
    limit: int
    ord: int


def share(turns: Sequence[Turn], slots: int, *, after: int = 0) -> dict[Tenant, list[Share]]:
    """Return what to claim for `slots` free slots: by tenant, the routes and how many of each.

    `turns` are sorted by tenant and route; `after` is a counter that moves the rotation on. The limits add up to at
    most `slots`; while there is anything to take and a slot free, something is returned.
    """
    if slots <= 0 or not turns:
        return {}
    tenants = [(tenant, list(group)) for tenant, group in groupby(turns, key=lambda turn: turn.tenant)]
    shares: dict[Tenant, list[Share]] = {}
    for (tenant, own), count in _deal(tenants, slots, after):
        urgent = min(priority_rank(turn.ord) for turn in own)
        first = [turn for turn in own if priority_rank(turn.ord) == urgent]
        shares[tenant] = [Share(turn.route, limit, turn.ord) for turn, limit in _deal(first, count, after)]
    return shares


def _deal(items: Sequence[_T], count: int, after: int) -> list[tuple[_T, int]]:
    """Deal `count` to the items in equal parts, the remainder to those whose turn it is; leave out who gets none."""
    start = after % len(items)
    order = [*items[start:], *items[:start]]
    each, rest = divmod(count, len(order))
    return [(item, each + (i < rest)) for i, item in enumerate(order) if each + (i < rest) > 0]
