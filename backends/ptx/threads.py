"""Static functions of the thread's number, as code.

A layout says at compile time, for every thread, which coordinate it has. `per_thread` turns such a table into
instructions: a constant, shifts and masks of the thread's number where the table is linear in its bits
(nearly always), divisions where it repeats with another period, else a look-up in a table.
    [0, 0, 8, 8, 16, 16, ...]  ->  (tid >> 1) << 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Table = np.ndarray[Any, Any]


def per_thread(e: Emitter, table: Table) -> str:
    """An i32 value: table[thread]."""
    table = table.astype(np.int64)
    key = ("thread", table.tobytes())
    if key not in e.once:
        with e.at_entry():
            e.once[key] = _integers(e, table)
    return e.once[key]


def predicate(e: Emitter, table: Table) -> str | None:
    """An i1 value: table[thread]; None where it is true for all."""
    if table.all():
        return None
    table = table.astype(bool)
    key = ("threads", table.tobytes())
    if key not in e.once:
        with e.at_entry():
            e.once[key] = _booleans(e, table)
    return e.once[key]


def _integers(e: Emitter, table: Table) -> str:
    if (table == table[0]).all():
        return str(table[0])
    for combine in ("add", "xor"):
        parts = _bit_fields(table, combine)
        if parts is not None:
            return _sum_of_fields(e, table, parts, combine)
    return _periodic(e, table) or _look_up(e, table)


def _sum_of_fields(e: Emitter, table: Table, parts: list[tuple[int, int, int]], combine: str) -> str:
    total = str(table[0]) if table[0] else None
    for low, width, weight in parts:
        term = _field(e, len(table), low, width)
        if weight != 1:
            term = e.let(f"mul i32 {term}, {weight}")
        total = term if total is None else e.let(f"{combine} i32 {total}, {term}")
    assert total is not None, "a table that varies has a field"
    return total


def _field(e: Emitter, threads: int, low: int, width: int) -> str:
    """Bits [low, low + width) of the thread's number."""
    moved = e.let(f"lshr i32 {e.tid}, {low}") if low else e.tid
    if threads <= 1 << (low + width):
        return moved
    return e.let(f"and i32 {moved}, {(1 << width) - 1}")


def _bit_fields(table: Table, combine: str) -> list[tuple[int, int, int]] | None:
    """(low bit, width, weight) of each run of bits: table = table[0] combined with the weighted fields."""
    operation = np.add if combine == "add" else np.bitwise_xor
    undo = np.subtract if combine == "add" else np.bitwise_xor
    numbers = np.arange(len(table))
    rebuilt = np.full(len(table), table[0])
    fields: list[tuple[int, int, int]] = []
    for i in range((len(table) - 1).bit_length()):
        weight = int(undo(table[1 << i], table[0]))
        rebuilt = operation(rebuilt, ((numbers >> i) & 1) * weight)
        if fields and _continues(fields[-1], i, weight, combine):
            fields[-1] = (fields[-1][0], fields[-1][1] + 1, fields[-1][2])
        elif weight:
            fields.append((i, 1, weight))
    return fields if np.array_equal(rebuilt, table) else None


def _continues(field: tuple[int, int, int], bit: int, weight: int, combine: str) -> bool:
    """Whether a bit is the next of a field. The field is multiplied: what is xored may not share bits."""
    low, width, unit = field
    shared = combine == "xor" and any(weight & unit << i for i in range(width))
    return bit == low + width and weight == unit << width and not shared


def _periodic(e: Emitter, table: Table) -> str | None:
    """table[t] = base + (t / run % count) * step, for runs and counts that are no powers of two."""
    changes = np.flatnonzero(np.diff(table))
    run, step = int(changes[0]) + 1, int(table[changes[0] + 1] - table[changes[0]])
    backwards = np.flatnonzero(np.sign(np.diff(table)) == -np.sign(step))
    count = (int(backwards[0]) + 1) // run if len(backwards) else -(-len(table) // run)
    numbers = np.arange(len(table))
    if not np.array_equal(table[0] + numbers // run % count * step, table):
        return None
    digit = e.let(f"udiv i32 {e.tid}, {run}") if run > 1 else e.tid
    digit = e.let(f"urem i32 {digit}, {count}") if len(backwards) else digit
    scaled = e.let(f"mul i32 {digit}, {step}")
    return e.let(f"add i32 {scaled}, {table[0]}")


def _look_up(e: Emitter, table: Table) -> str:
    name = e.constant_table("i32", [int(x) for x in table])
    at = e.let(f"getelementptr inbounds i32, ptr addrspace(1) {name}, i32 {e.tid}")
    return e.let(f"load i32, ptr addrspace(1) {at}, align 4, !invariant.load !1")


def _booleans(e: Emitter, table: Table) -> str:
    """(tid & mask) == bits where only some bits decide, tid < n for a prefix, else a look-up."""
    count = int(table.sum())
    if table[:count].all():
        return e.let(f"icmp ult i32 {e.tid}, {count}")
    numbers = np.arange(len(table))
    if count and len(table) & (len(table) - 1) == 0:
        inside = numbers[table]
        fixed = int(np.bitwise_and.reduce(~(inside ^ inside[0]))) & (len(table) - 1)
        if np.array_equal((numbers & fixed) == (inside[0] & fixed), table):
            masked = e.let(f"and i32 {e.tid}, {fixed}")
            return e.let(f"icmp eq i32 {masked}, {inside[0] & fixed}")
    found = _integers(e, table.astype(np.int64))
    return e.let(f"icmp ne i32 {found}, 0")
