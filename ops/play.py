"""Calls of operators played again: decided once, by what the arguments look like.

    @played
    def double(x: Any) -> Any: ...      # double(x), double(y): the third call of arrays alike decides nothing
A call that looks like an earlier one, wherever its arrays lie, makes the same arrays and launches the same
kernels; what it did is on a tape (tilec/tape.py). The first is only counted, the second is noted. What a look
does not say is checked each time: which arrays share bytes, and that constants are there still.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from tilec.again import Look, is_itself_alone, keep, look_of, plays
from tilec.device import WIDEST, DeviceArray, bounds_of, memory_of, placed, span
from tilec.ir import debug
from tilec.ir.addresses import address
from tilec.ir.tile import ArrayType
from tilec.ops.callers import any_arrays, copies, handed
from tilec.places import current_target
from tilec.tape import Given, Made, Tape, current, noting
from tilec.tracing import tracing

P = ParamSpec("P")
R = TypeVar("R")
Giving = Callable[[list[Any], list[Any]], Any]  # a result, of the arrays that came in and those made
ONCE, NEVER, STALE = object(), object(), object()


def played(function: Callable[P, R]) -> Callable[P, R]:
    """A function of every library's arrays that decides nothing by their elements, and reads and writes them
    in kernels alone."""
    plain = any_arrays(function)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        look = look_of(args, named)
        if look is None or debug.inside() or current() is not None or tracing() is not None:
            return plain(*args, **named)
        key = (call, current_target(), copies(), look.key)
        play = plays.get(key)
        if play.__class__ is Play:
            result = play(look)
            if result is not STALE:
                return result  # type: ignore[no-any-return]
        elif play is None:
            keep(plays, key, ONCE)
        if play is None or play is NEVER or debug.level():
            return plain(*args, **named)
        with noting() as tape:
            found = plain(*args, **named)
        keep(plays, key, play_of(tape, look) or NEVER)
        return found

    return call


class Making(NamedTuple):
    """How a new array is made, where it lies then, and the alignment that the kernels count on."""

    make: Callable[[], Any]
    where: Callable[[Any], int]
    aligned: int


class Apart(NamedTuple):
    """Two arrays that must not share bytes: which they are, and what they span, as seen from their first
    elements.
    """

    one: int
    low: int
    high: int
    other: int
    other_low: int
    other_high: int


@dataclass(frozen=True, slots=True)
class Play:
    """What a call does. Arrays are numbered: those that came in, constants, those that are made."""

    owners: tuple[Any, ...]  # references to what the constants belong to
    lent: tuple[Any, ...]  # references to the constants
    lent_at: tuple[int, ...]
    apart: tuple[Apart, ...]
    together: tuple[tuple[int, int, int], ...]  # so many bytes from one array to another
    makings: tuple[Making, ...]
    steps: tuple[tuple[Callable[[list[int]], None], tuple[tuple[int, int], ...]], ...]
    give: Giving

    def __call__(self, look: Look) -> Any:
        """The result for arguments like these; STALE where something else is not as it was."""
        at = look.at
        for owner, x in zip(self.owners, look.owners, strict=True):
            if owner() is not x:
                return STALE
        for constant in self.lent:
            if constant() is None:
                return STALE
        at += self.lent_at
        if (self.apart or self.together) and not self._as_they_lay(at):
            return STALE
        made = []
        for make, where, aligned in self.makings:
            made.append(new := make())
            at.append(found := where(new))
            if found % WIDEST != aligned:
                return STALE
        for run, spots in self.steps:
            run([at[i] + offset for i, offset in spots])
        return self.give(look.arrays, made)

    def _as_they_lay(self, at: Sequence[int]) -> bool:
        for i, low, high, j, other_low, other_high in self.apart:
            if at[i] + low < at[j] + other_high and at[j] + other_low < at[i] + high:
                return False
        return all(at[j] - at[i] == distance for i, j, distance in self.together)


# From a tape.


class Room(NamedTuple):
    """An array that others may be views of: where its elements lie, and its first one."""

    low: int
    high: int
    at: int

    def holds(self, other: "Room") -> bool:
        return self.low <= other.low < other.high <= self.high


class Rooms:
    """The numbered arrays of a call, and what is found out about them."""

    def __init__(self, tape: Tape, look: Look) -> None:
        came = [_room(memory_of(x, "an array")) for x in look.arrays]
        made = [_room(each.held) for each in tape.made]
        lent = {id(x): x for x in (*tape.lent, *_arrays_of(look.owners))}.values()
        taken = _taken(tape)
        self.lent = [x for x in lent if _only_there(_room(x), [*came, *made], taken)]
        self.first_lent, self.first_made = len(came), len(came) + len(self.lent)
        self.rooms = [*came, *map(_room, self.lent), *made]
        self.together: set[tuple[int, int, int]] = set()

    def place(self, x: Any) -> tuple[int, int] | None:
        """Which array x is a view of, and how far behind its first element it begins; None if of none."""
        room = _room(x)
        inside = [i for i, each in enumerate(self.rooms) if each.holds(room)]
        came = [i for i in inside if i < self.first_lent]
        for other in came[1:]:  # of which it is matters no more while they lie so
            self.together.add((came[0], other, self.rooms[other].at - self.rooms[came[0]].at))
        made = [i for i in inside if i >= self.first_made]
        found = next(iter(came or made or inside), None)
        return None if found is None else (found, room.at - self.rooms[found].at)

    def kept_apart(self, written: set[int]) -> tuple[Apart, ...]:
        """What came in and is written shares bytes with no more than now."""
        found: list[Apart] = []
        for i in sorted(written):
            for j in range(self.first_made):
                one, other = self.rooms[i], self.rooms[j]
                if j == i or one.low == one.high or other.low == other.high:
                    continue
                if one.low < other.high and other.low < one.high:
                    self.together.add((i, j, other.at - one.at))
                elif j not in written or i < j:
                    ends = one.low - one.at, one.high - one.at, j, other.low - other.at, other.high - other.at
                    found.append(Apart(i, *ends))
        return tuple(found)


def play_of(tape: Tape, look: Look) -> Play | None:
    """The call of a tape, to be made again for arguments that look so; None where it cannot be."""
    if not tape.whole or tape.given is None:
        return None
    rooms, written = Rooms(tape, look), set[int]()
    steps = [_step(launch, held, rooms, written) for launch, held in tape.launches if launch.blocks]
    give = _giving(tape.given.result, tape.given, tape.made, look, rooms)
    if give is None or None in steps:
        return None
    makings = tuple(_making(each) for each in tape.made)
    lent_at = tuple(room.at for room in rooms.rooms[rooms.first_lent : rooms.first_made])
    owners, lent = (tuple(map(weakref.ref, each)) for each in (look.owners, rooms.lent))
    apart = rooms.kept_apart(written)
    return Play(owners, lent, lent_at, apart, tuple(rooms.together), makings, tuple(steps), give)


def _step(launch: Any, held: Sequence[Any], rooms: Rooms, written: set[int]) -> Any:
    """A launch that takes addresses, and which of them it takes; None where one is of an unknown array."""
    moving: list[int] = []
    spots: list[tuple[int, int]] = []
    for i in _arrays(launch, held):
        place = rooms.place(held[i])
        if place is None:
            return None
        if i in launch.compiled.written and place[0] < rooms.first_lent:
            written.add(place[0])
        if not rooms.first_lent <= place[0] < rooms.first_made:
            moving.append(i)
            spots.append(place)
    run = launch.movable(held, moving)
    return run and (run, tuple(spots))


def _giving(x: Any, given: Given, made: Sequence[Made], look: Look, rooms: Rooms) -> Giving | None:
    """What gives a result like x."""
    if x is None:
        return lambda arrays, new: None
    if isinstance(x, tuple | list):
        parts = [_giving(each, given, made, look, rooms) for each in x]
        whole: Any = type(x)._make if hasattr(x, "_fields") else type(x)  # type: ignore[union-attr]
        return None if None in parts else lambda arrays, new: whole([give(arrays, new) for give in parts])  # type: ignore[misc]
    came = given.as_came.get(id(x), x)
    for i, each in enumerate(look.arrays):
        if each is came:
            return lambda arrays, new: arrays[i]
    if not isinstance(x, np.ndarray | DeviceArray):
        return _giving_thing(x, given, made, look, rooms) if is_itself_alone(type(x)) else None
    place = rooms.place(x)
    if place is None or place[0] < rooms.first_made:
        return None
    number, offset = place[0] - rooms.first_made, place[1]
    return _giving_new(x, number, offset, made[number].held, given.library)


def _giving_thing(x: Any, given: Given, made: Sequence[Made], look: Look, rooms: Rooms) -> Giving | None:
    """What gives a thing like x, but of new arrays, held as operators see them. x itself is not kept."""
    kind, plain = type(x), given._replace(library=None)
    parts = {each.name: getattr(x, each.name) for each in fields(x)}
    arrays = [name for name, part in parts.items() if isinstance(part, np.ndarray | DeviceArray)]
    gives = {name: _giving(parts.pop(name), plain, made, look, rooms) for name in arrays}
    if None in gives.values():
        return None
    return lambda came, new: kind(
        **parts, **{name: memory_of(give(came, new), name) for name, give in gives.items()}  # type: ignore[misc]
    )


def _giving_new(x: Any, number: int, offset: int, held: Any, library: Any) -> Giving | None:
    """A new array, or a view of it, as the caller's library has them."""
    if x.dtype != held.dtype or not bounds_of(x).flags.writeable:
        return None
    shape, strides = x.shape, x.strides
    whole = shape == held.shape and strides == held.strides
    if isinstance(held, np.ndarray) and library is not None:
        if whole:
            return lambda arrays, new: handed(new[number], library)
        return lambda arrays, new: handed(_view(new[number], offset, shape, strides), library)
    if whole:
        return lambda arrays, new: new[number]
    return lambda arrays, new: _view(new[number], offset, shape, strides)


def _view(x: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """Of a new array, `offset` bytes from its start; strides as its kind counts them."""
    if isinstance(x, np.ndarray):
        return np.ndarray(shape, x.dtype, x, offset, strides)
    if isinstance(x, DeviceArray):
        return placed(x.address + offset, shape, strides, x.dtype, x.device, stream=x.stream, owner=x)
    return x.as_strided(shape, strides, offset // x.itemsize)


def _only_there(lent: Room, others: Sequence[Room], taken: Sequence[Room]) -> bool:
    """Does a kernel take a constant that is no view of another array?"""
    return any(map(lent.holds, taken)) and not any(room.holds(lent) for room in others)


def _taken(tape: Tape) -> list[Room]:
    """Where the arrays lie that kernels take."""
    return [_room(held[i]) for launch, held in tape.launches for i in _arrays(launch, held)]


def _arrays(launch: Any, held: Sequence[Any]) -> Iterator[int]:
    """Which parameters are arrays that have elements."""
    for i, param in enumerate(launch.compiled.traced.params):
        if isinstance(param.type, ArrayType) and bounds_of(held[i]).size:
            yield i


def _making(made: Made) -> Making:
    aligned = _room(made.held).at % WIDEST
    if isinstance(made.held, np.ndarray):
        return Making(made.make, address, aligned)
    return Making(made.make, _where, aligned)


def _where(x: Any) -> int:
    """The address of a new array of a GPU."""
    return x.address if isinstance(x, DeviceArray) else int(x.data_ptr())


def _room(x: Any) -> Room:
    held = bounds_of(x)
    return Room(*span(held), address(held))


def _arrays_of(owners: Sequence[Any]) -> list[Any]:
    """The arrays that are fields of things."""
    return [x for each in owners for x in vars(each).values() if isinstance(x, np.ndarray | DeviceArray)]
