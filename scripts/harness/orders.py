"""The orders in which two or three verbs are interleaved, and what each must come to.

What is right is not written down anywhere: it is whatever the same verbs come to when only whole transactions follow each
other, in one order or another (the rows, and every answer). So each schedule of single statements must end as some
schedule of whole transactions does; and whatever it ends as must keep the invariants.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations_with_replacement, groupby, islice

from durable_agent.engine import caps
from harness.commands import COMMANDS, NOTHING
from harness.scenes import SCENES, TABLES, Scene, Theatre
from harness.steered import Actor, Mark, Own, Stage, Steered, connect, unrolled

# (who, how many): statements, or whole transactions.
Segments = Sequence[tuple[int, int]]
Outcome = tuple[tuple[str, ...], str]
ALL = 10_000
# More orders of whole transactions than this are not tried for one schedule that fits none so far.
MOST_ORDERS = 300
VACUUM_EVERY = 400
# In a sampled schedule somebody else goes on after a statement with this chance.
SWITCH = 0.3


@dataclass(frozen=True, slots=True)
class Cast:
    """The commands of a schedule, on a scene."""

    scene: Scene
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scene.name}:{','.join(self.commands)}"


@dataclass(frozen=True, slots=True)
class Ended:
    """What a schedule came to: what can be told from outside (answers and rows), what is wrong, who moved when, whose
    transactions ended in which order, and the statements each sent."""

    outcome: Outcome
    faults: tuple[str, ...]
    trace: str
    order: tuple[int, ...]
    sent: tuple[tuple[Mark, ...], ...]

    @property
    def replay(self) -> str:
        """The schedule as `--replay` takes it: who sends how many statements; a capital then waited for a lock."""
        return "".join(f"{who}{len(list(run))}" for who, run in groupby(self.trace.lower()))


@dataclass(slots=True)
class Tally:
    """What a campaign counted. `met` are the casts in which one waited for another's lock at least once, `split`
    those that ended, rightly, as no order of whole commands would: some command is more than one transaction."""

    casts: int = 0
    schedules: int = 0
    wholes: int = 0
    equal: int = 0
    blocked: int = 0
    deadlocks: int = 0
    met: set[str] = field(default_factory=set)
    split: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)


def segments_of(text: str) -> list[tuple[int, int]]:
    """Return a schedule as `--replay` takes it. Raises ValueError."""
    found = re.findall(r"([a-c])(\d+)", text)
    if "".join(who + count for who, count in found) != text or not found:
        raise ValueError(f"{text!r} is no schedule: write a3b12a5")
    return [(ord(who) - ord("a"), int(count)) for who, count in found]


def pairs(scenes: Mapping[str, Scene], only: Sequence[str] = ()) -> Iterator[Cast]:
    """Yield the pairs of commands, each in those of the scenes that either belongs in; `only` is the pair, or one of each, to be had."""
    for pair in combinations_with_replacement(COMMANDS, 2):
        if set(pair) >= set(only) if len(only) < 2 else set(pair) == set(only):
            for scene in dict.fromkeys(COMMANDS[name].home for name in pair):
                if scene in scenes:
                    yield Cast(scenes[scene], pair)


@dataclass(slots=True)
class Director:
    """Plays schedules of casts, one command to a connection."""

    theatre: Theatre
    watch: Steered
    conns: Sequence[Steered]
    until_first: bool = False
    tally: Tally = field(default_factory=Tally)
    _fitting: dict[tuple[str, str], bool] = field(default_factory=dict)
    _allowed: dict[str, dict[Outcome, bool]] = field(default_factory=dict)

    @property
    def enough(self) -> bool:
        """Whether a violation was found and one is enough."""
        return self.until_first and bool(self.tally.violations)

    async def pair(self, cast: Cast, depth: int = 1) -> None:
        """Play every schedule of two commands in which the first is interrupted once (`depth` 2: and the second once, too)."""
        if not await self.fits(cast):
            return
        self.tally.casts += 1
        firsts = range(1 if len(set(cast.commands)) == 1 else 2)
        serial = [await self.judged(cast, [(first, ALL)]) for first in firsts]
        for first, alone in zip(firsts, serial, strict=True):
            other, marks = 1 - first, alone.sent[first]
            at = 1
            while at < len(marks) and not self.enough:
                ended = await self.judged(cast, [(first, at), (other, ALL)])
                ran = _first_run(ended, other, after=at)
                if depth > 1:
                    for stop in range(1, len(ran)):
                        if self.enough:
                            return
                        await self.judged(cast, [(first, at), (other, stop), (first, ALL)])
                # Blocked after plain reads, which see nothing uncommitted: so it will be until the first one's commit.
                later = at + 1
                if ran.isupper() or (ran and ran[-1].isupper()):
                    read = ended.sent[other][: len(ran) - 1]
                    while later < len(marks) and not marks[later].free and all(mark.plain for mark in read):
                        later += 1
                self.tally.equal += later - at - 1
                at = later

    async def sample(self, cast: Cast, rng: random.Random) -> None:
        """Play one schedule of any number of commands, drawn statement by statement."""
        if await self.fits(cast):
            self.tally.casts += 1
            await self.judged(cast, None, rng)

    async def fits(self, cast: Cast) -> bool:
        """Tell whether the scene has what each of the commands is about."""
        for name in cast.commands:
            key = cast.scene.name, name
            if key not in self._fitting:
                ended = await self.play(Cast(cast.scene, (name,)), ())
                self._fitting[key] = not ended.outcome[0][0].startswith(KeyError.__name__)
            if not self._fitting[key]:
                return False
        return True

    async def judged(self, cast: Cast, segments: Segments | None, rng: random.Random | None = None) -> Ended:
        """Play a schedule and put down whether it ended as it must."""
        ended = await self.play(cast, segments, rng=rng)
        self.tally.schedules += 1
        for fault in ended.faults:
            self._complain(cast, ended, fault)
        known = self._allowed.setdefault(str(cast), {})
        if self._right(cast, ended, known):
            return ended
        for order in _orders(ended.order, len(cast.commands)):
            one = await self.play(cast, [(who, 1) for who in order], whole=True)
            self.tally.wholes += 1
            for fault in one.faults:
                self._complain(cast, one, f"with whole transactions, too: {fault}")
            known[one.outcome] = known.get(one.outcome, False) or len(list(groupby(one.trace))) == len(cast.commands)
            if self._right(cast, ended, known):
                return ended
        self._complain(cast, ended, _unlike(ended.outcome, known))
        known[ended.outcome] = True
        return ended

    def _right(self, cast: Cast, ended: Ended, known: Mapping[Outcome, bool]) -> bool:
        if known.get(ended.outcome) is False:
            self.tally.split.add(str(cast))
        return ended.outcome in known

    async def play(
        self, cast: Cast, segments: Segments | None, *, whole: bool = False, rng: random.Random | None = None
    ) -> Ended:
        """Play one schedule from the scene's beginning to its end, and look at what it left."""
        await self._restore(cast)
        before = sum(conn.deadlocks for conn in self.conns)
        actors = [Actor(name, conn) for name, conn in zip(cast.commands, self.conns, strict=False)]
        verbs = [partial(COMMANDS[one.name].verb, cast.scene, Own(one.conn)) for one in actors]
        stage = Stage(self.watch, actors)
        try:
            await stage.begin(verbs)
            if rng is not None:
                await _draw(stage, rng)
            await _perform(stage, segments or (), whole=whole)
        finally:
            await stage.end()
        for actor, verb in zip(actors, verbs, strict=True):
            if COMMANDS[actor.name].again and actor.answer == NOTHING:
                actor.answer = await verb()
        if any(COMMANDS[name].upkeep for name in cast.commands):
            await caps.release_all(Own(actors[0].conn))
        rows, faults = await self.theatre.state(cast.scene)
        if found := sum(conn.deadlocks for conn in self.conns) - before:
            self.tally.deadlocks += found
            faults.append(f"P4: {found} deadlock")
        if stage.blocked:
            self.tally.blocked += stage.blocked
            self.tally.met.add(str(cast))
        answers = tuple(cast.scene.plain(_told(actor.answer)) for actor in actors)
        sent = tuple(tuple(actor.marks) for actor in actors)
        return Ended((answers, rows), tuple(faults), "".join(stage.trace), tuple(stage.order), sent)

    async def _restore(self, cast: Cast) -> None:
        if (self.tally.schedules + self.tally.wholes) % VACUUM_EVERY == VACUUM_EVERY - 1:
            await self.watch.execute(f"vacuum {', '.join(TABLES)}")
        await self.theatre.restore(cast.scene)

    def _complain(self, cast: Cast, ended: Ended, what: str) -> None:
        answers = "; ".join(f"{name}: {told}" for name, told in zip(cast.commands, ended.outcome[0], strict=True))
        self.tally.violations.append(f"--replay {cast}:{ended.replay}\n  {what}\n  answers: {answers}")


@asynccontextmanager
async def directing(
    url: str, *, scenes: Sequence[str] = tuple(SCENES), until_first: bool = False
) -> AsyncIterator[Director]:
    """Yield a director on an empty database of the engine's, its scenes made."""
    conns = [await connect(url, name) for name in ("stage", "watch", "a", "b", "c")]
    try:
        with unrolled():
            theatre = Theatre(conns[0])
            await theatre.open(scenes)
            yield Director(theatre, conns[1], conns[2:], until_first)
    finally:
        for conn in conns:
            await conn.close()


async def _perform(stage: Stage, segments: Segments, *, whole: bool) -> None:
    """Move the actors as the segments say; then who moved last, then whoever can, to the end."""
    who = 0
    for who, count in segments:
        done = 0
        while done < count and stage.able(who):
            units = stage.actors[who].units
            await stage.move(who)
            done += stage.actors[who].units - units if whole else 1
    while not stage.over:
        if not stage.able(who):
            who = next(number for number in range(len(stage.actors)) if stage.able(number))
        await stage.move(who)


async def _draw(stage: Stage, rng: random.Random) -> None:
    who = -1
    while not stage.over:
        able = [number for number in range(len(stage.actors)) if stage.able(number)]
        if who not in able or rng.random() < SWITCH:
            who = rng.choice(able)
        await stage.move(who)


def _first_run(ended: Ended, who: int, after: int) -> str:
    """Return what an actor did in one go after so many moves; its last letter is a capital if it had to wait then."""
    rest = ended.trace[after:]
    run = len(rest) - len(rest.lstrip(chr(ord("a") + who) + chr(ord("A") + who)))
    done = rest[:run]
    first = next((number for number, letter in enumerate(done) if letter.isupper()), None)
    return done if first is None else done[: first + 1]


def _orders(seen: tuple[int, ...], actors: int) -> Iterator[tuple[int, ...]]:
    """Yield orders of whole transactions: first the one in which they ended, then all others, up to a limit."""
    yield seen
    counts = [seen.count(number) for number in range(actors)]
    yield from (order for order in islice(_merged(counts), MOST_ORDERS) if order != seen)


def _merged(counts: list[int]) -> Iterator[tuple[int, ...]]:
    if not any(counts):
        yield ()
    for number, count in enumerate(counts):
        if count:
            left = [c - (n == number) for n, c in enumerate(counts)]
            yield from ((number, *rest) for rest in _merged(left))


def _told(answer: object) -> str:
    return f"{type(answer).__name__}: {answer}" if isinstance(answer, BaseException) else str(answer)


def _unlike(outcome: Outcome, known: Iterable[Outcome]) -> str:
    """Say how an outcome differs from the most similar one that whole transactions come to."""
    answers, rows = outcome
    told = [one for one in known if one[0] == answers] or list(known)
    differences: list[str] = []
    for one in told:
        lines = difflib.unified_diff(one[1].splitlines(), rows.splitlines(), "whole", "here", lineterm="", n=0)
        found = [line[:400] for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        if not differences or len(found) < len(differences):
            differences = found
    what = "rows" if any(one[0] == answers for one in known) else "answers"
    text = "\n    ".join(differences[:8])
    return f"its {what} are those of no order of whole transactions:\n    {text}"
