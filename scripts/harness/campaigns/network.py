"""The network between everything and PostgreSQL fails: one worker at a time, the API, the client, and a whole machine.

    python scripts/chaos.py --campaign network --minutes 3 --seed 1

Each worker, the API and the submitting client reach PostgreSQL by a route of their own through `harness.proxy`. An
episode is one fault on one route: both ways silent, only what goes up, only what comes down (the half-open cases), slow,
a reset, an orderly end, or the answer to a COMMIT that never comes back. Two workers live in a network namespace behind
a veth pair, where packets are dropped. Partitions last up to twice a lease: whoever was away wakes up as a zombie.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from durable_agent.db.pool import Database
from harness.campaigns.namespace import Namespace
from harness.proxy import Proxy
from harness.stack import WORKERS, Campaign, Place, Stack, at_port

# The last two workers live in the namespace.
OUTSIDE: Final = ("w4", "w5")
EPISODE_LOOPS: Final = 5
SILENCE: Final = {"both ways": (True, True), "up": (True, False), "down": (False, True)}


class Run(Campaign):
    """The campaign of broken networks."""

    must_land = (
        "partition: both ways", "partition: up", "partition: down", "delay", "reset", "end", "commit unanswered",
    )  # fmt: skip
    mutants = ("no-fence",)

    def place(self) -> Place:
        """Start PostgreSQL, the proxy, and a route for each who uses it."""
        place = super().place()
        self.proxy = Proxy(self.directory / "proxy.log")
        self.exits.callback(self.proxy.close)
        port = int(place.own_url.rpartition(":")[2].partition("/")[0])
        self.namespace = Namespace.made(self.exits)
        urls = {}
        for name in ("api", "client", *(f"w{n}" for n in range(WORKERS))):
            away = self.namespace is not None and name in OUTSIDE
            host = self.namespace.gateway if self.namespace and away else "127.0.0.1"
            found = at_port(place.own_url, self.proxy.open(name, port, host=host))
            urls[name] = found.replace("127.0.0.1", host)  # which is in it twice
        self.routes = list(urls)
        workers = {name: (url, url) for name, url in urls.items() if name.startswith("w")}
        return dataclasses.replace(
            place, url=urls["api"], direct_url=urls["api"], load_url=urls["client"], workers=workers
        )  # fmt: skip

    def hire(self, stack: Stack) -> None:
        """Start the API and the workers, two of them in the namespace."""
        if self.namespace is not None:
            receiver = self.proxy.open("receiver", stack.world.port, host=self.namespace.gateway)
            away = stack.zygote(
                {"CHAOS_RECEIVER": f"{self.namespace.gateway}:{receiver}"}, self.namespace.prefix
            )  # fmt: skip
            stack.zygotes.update(dict.fromkeys(OUTSIDE, away))
        else:
            print(
                "no network namespace can be made here (it needs root, `ip` and `iptables`): loss of packets is left out"
            )
        super().hire(stack)

    async def rage(self, stack: Stack, db: Database) -> None:
        """Break the network, one route at a time in each loop."""
        self.busy: set[str] = set()
        chooser = random.Random(self.given.seed)
        loops: list[Coroutine[Any, Any, None]] = [self._episodes(stack, chooser) for _ in range(EPISODE_LOOPS)]
        if self.namespace is not None:
            loops.append(self._loss(stack, chooser))
        await stack.load.during(loops, self.given.minutes * 60)

    async def calm(self, stack: Stack) -> None:
        """Heal every route; what was still held does not count."""
        for route in self.routes:
            self.proxy.heal(route)
            self.proxy.arm(route, 0)

    async def _episodes(self, stack: Stack, chooser: random.Random) -> None:
        kinds: list[Callable[[Stack, str, random.Random], Coroutine[Any, Any, None]]] = [
            self._silence, self._silence, self._silence, self._delay, self._sever, self._unanswered, self._unanswered,
        ]  # fmt: skip
        while not stack.faults.over.is_set():
            await stack.faults.pause(0.05, 0.4)
            free = [route for route in self.routes if route not in self.busy]
            if not free:
                continue
            route = chooser.choice(free)
            self.busy.add(route)
            try:
                await chooser.choice(kinds)(stack, route, chooser)
            finally:
                self.busy.discard(route)

    async def _silence(self, stack: Stack, route: str, chooser: random.Random) -> None:
        """Hold one direction or both; then let it all through late, or reset what hangs."""
        kind = chooser.choice(list(SILENCE))
        up, down = SILENCE[kind]
        self.proxy.hold(route, up=up, down=down)
        await stack.faults.pause(0.2, 3.0)
        reset = chooser.random() < 0.5
        if reset:
            self.proxy.sever(route, reset=True)
        stack.faults.landed[f"partition: {kind}"] += self.proxy.heal(route)["held"] > 0

    async def _delay(self, stack: Stack, route: str, chooser: random.Random) -> None:
        self.proxy.hold(route, delay_s=chooser.uniform(0.05, 0.6))
        await stack.faults.pause(0.5, 2.0)
        stack.faults.landed["delay"] += self.proxy.heal(route)["delayed"] > 0

    async def _sever(self, stack: Stack, route: str, chooser: random.Random) -> None:
        reset = chooser.random() < 0.7
        stack.faults.landed["reset" if reset else "end"] += self.proxy.sever(route, reset=reset) > 0

    async def _unanswered(self, stack: Stack, route: str, chooser: random.Random) -> None:
        """Withhold the answers to the next commits."""
        self.proxy.arm(route, chooser.randint(1, 3))
        await stack.faults.pause(0.3, 1.0)
        self.proxy.arm(route, 0)
        stack.faults.landed["commit unanswered"] += self.proxy.counts(route)["commits"]

    async def _loss(self, stack: Stack, chooser: random.Random) -> None:
        """Drop packets of the namespace, some or all, in one direction or both."""
        assert self.namespace is not None
        while not stack.faults.over.is_set():
            await stack.faults.pause(0.5, 1.5)
            rules = [
                (way, chooser.choice([0.1, 0.3, 0.5, 1.0]))
                for way in chooser.sample(["INPUT", "OUTPUT"], chooser.randint(1, 2))
            ]
            self.namespace.drop(rules)
            await stack.faults.pause(0.5, 3.0)
            dropped = self.namespace.heal()
            whole = all(share == 1.0 for _, share in rules)
            stack.faults.landed["namespace cut off" if whole else "namespace with loss"] += dropped > 0
