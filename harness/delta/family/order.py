"""Which images of a family are stored, and from which others each of the rest is made: what costs least in all.

Costs are bytes, estimated from sketches; a CPU second at every rehydration of an image counts as much as a kibibyte,
those that its bases take included, and one that the whole family waits for as 64 KiB for each image. The first image
is chosen by trying; then always that one comes next which costs least from those that are there already. So an image
is made from images before it, and there are no circles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.delta.family.member import Form, Member, Sight

SECOND = 2**10  # bytes that a CPU second is worth to who makes one image
WAITING = 2**16  # and to each other image, where that is the one which all are made from
LEAST = 512  # bytes: a recipe that copies everything
MOST_TRIES = 32  # images tried as the first, those first that take least on their own
MOST_BASES = 4  # of one recipe: each must be there, and be read
APART = 1.25  # what an image stored as content and plan seems to cost more than one that any zstd unpacks
WORTH_A_BASE = 2**16  # bytes that another base must save


@dataclass(frozen=True, slots=True)
class Source:
    """Another image of the family, by its index, as it is seen."""

    index: int
    sight: Sight


@dataclass(frozen=True, slots=True)
class Step:
    """How to come by one image: from sources, or with none of them stored.

    `cost` is the estimate, in bytes; `seconds` are the CPU seconds until it is there.
    """

    index: int
    form: Form
    sources: tuple[Source, ...]
    cost: int
    seconds: float

    def after(self, seconds: float) -> Step:
        """The same where its sources are there that late."""
        return replace(self, cost=self.cost + int(seconds * SECOND), seconds=self.seconds + seconds)


def arrange(members: Sequence[Member], given: int = 0) -> list[Step]:
    """The cheapest order found; the first `given` members are there already and cost nothing.

    The same members give the same steps.
    """
    there = list(range(given))
    if given == len(members):
        return []
    prices = _Prices(members)
    if given:
        return _refined(members, prices.grown(there, []))
    singles = sorted((prices.stored(index) for index in range(len(members))), key=_cost)
    tries = [prices.grown([first.index], [first]) for first in singles[:MOST_TRIES]]
    return _refined(members, min(tries, key=lambda steps: sum(step.cost for step in steps)))


class _Prices:
    """What each image costs from each other one, found out once."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._made: dict[tuple[int, int], Step] = {}
        self._stored: dict[int, Step] = {}

    def grown(self, there: Sequence[int], steps: list[Step]) -> list[Step]:
        """The steps, and then for each image left the cheapest, the cheapest image first."""
        left = [index for index in range(len(self._members)) if index not in there]
        best = {index: self.stored(index) for index in left}
        fresh = dict.fromkeys(there, 0.0) | {step.index: step.seconds for step in steps}
        while left:
            for index in left:
                made = (self.made(index, source).after(seconds) for source, seconds in fresh.items())
                best[index] = min([best[index], *made], key=_cost)
            step = min((best[index] for index in left), key=_cost)
            steps.append(step)
            left.remove(step.index)
            fresh = {step.index: step.seconds}
        return steps

    def made(self, index: int, source: int) -> Step:
        """The cheapest way to make one image from one other."""
        if (index, source) not in self._made:
            options = (
                _made(index, form, (seen,))
                for form in self._members[index].forms
                for seen in _all(self._members, [source])
            )
            self._made[index, source] = min(options, key=_cost)
        return self._made[index, source]

    def stored(self, index: int) -> Step:
        """An image on its own: packed as it is, which anybody can unpack, or taken apart where that saves a lot."""
        if index not in self._stored:
            options = (_made(index, form, ()) for form in self._members[index].forms)
            self._stored[index] = min((self._with_waiting(step) for step in options), key=_cost)
        return self._stored[index]

    def _with_waiting(self, step: Step) -> Step:
        """All others may have to wait for an image that is stored taken apart: gzip -9 around a disk takes minutes."""
        if step.form.container is None:
            return step
        waiting = step.form.seconds * WAITING * (len(self._members) - 1)
        return replace(step, cost=int(step.cost * APART + waiting))


def _cost(step: Step) -> int:
    return step.cost


def _all(members: Sequence[Member], indexes: Sequence[int]) -> list[Source]:
    return [Source(index, sight) for index in indexes for sight in members[index].sights]


def _made(index: int, form: Form, sources: tuple[Source, ...]) -> Step:
    known = frozenset[bytes]().union(*(source.sight.sketch.marks for source in sources))
    seconds = form.seconds + sum(source.sight.seconds for source in sources)
    plan = len(form.container.plan) if form.container else 0
    missing = form.sketch.missing_from(known)
    return Step(index, form, sources, LEAST + missing + plan + int(seconds * SECOND), seconds)


def _refined(members: Sequence[Member], steps: list[Step]) -> list[Step]:
    """The same with more bases, or other ones, where they save more than they cost."""
    made = {step.index for step in steps}
    there = {index: 0.0 for index in range(len(members)) if index not in made}
    refined = []
    for step in steps:
        refined.append(_with_more(members, step, there))
        there[step.index] = refined[-1].seconds
    return refined


def _with_more(members: Sequence[Member], step: Step, there: Mapping[int, float]) -> Step:
    """`there` says of each image that is there how many seconds it took."""
    while step.sources and len(step.sources) < MOST_BASES and step.cost > WORTH_A_BASE:
        others = [source for source in _all(members, list(there)) if source not in step.sources]
        latest = max(there[source.index] for source in step.sources)
        options = [
            _made(step.index, step.form, (*step.sources, source)).after(max(latest, there[source.index]))
            for source in others
        ]
        better = min(options, key=_cost, default=step)
        if better.cost > step.cost - WORTH_A_BASE:
            break
        step = better
    return step
