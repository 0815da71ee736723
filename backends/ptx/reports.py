"""What a kernel on a GPU says to the host: tc.print and tc.assert_, as records in a buffer.

    // says: {"text": "acc = ", "dtype": "f32", "shape": [16, 16], ...}     a line each, before the PTX
Such a kernel takes the buffer's address after its other arguments. Word 0 counts records; a record is the
number of what is said, the block, the element and its code. A failed assertion leaves one and then stops the
launch with a trap: the buffer is the host's memory, which outlives that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.ptx.threads import per_thread, predicate
from tilec.ir import codec
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import Loc, TilecError
from tilec.ir.inst import sync
from tilec.ir.tile import TileType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

HEAD, POINTER = "says: ", "%said"
RECORDS, FIRST, WORDS = 1 << 14, 4, 6  # how many fit; where they begin and how long each is, in words
BUFFER_BYTES = 4 * (FIRST + RECORDS * WORDS)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Report:
    """One assertion (without a type), or one print of a tile."""

    text: str
    loc: Loc | None
    type: TileType | None = None


# In the compiler.


def say(e: Emitter, report: Report, items: Sequence[tuple[str | None, str, str]]) -> None:
    """Writes a record for each item: (condition, the element's number as i32, its code as i64)."""
    which = len(e.says)
    e.says.append(report)
    for condition, element, code in items:
        after = e.writer.label("said")
        if condition is not None:
            write = e.writer.label("say")
            e.writer.branch(condition, write, after)
            e.start_block(write)
        _record(e, which, element, code, after)
        e.start_block(after)


def _record(e: Emitter, which: int, element: str, code: str, after: str) -> None:
    at = e.let(f"atomicrmw add ptr addrspace(1) {POINTER}, i32 1 monotonic")
    keep = e.writer.label("keep")
    e.writer.branch(e.let(f"icmp ult i32 {at}, {RECORDS}"), keep, after)
    e.start_block(keep)
    start = e.let(f"mul i32 {at}, {WORDS}")
    base = e.let(f"getelementptr i32, ptr addrspace(1) {POINTER}, i32 {start}")
    block = e.call("llvm.nvvm.read.ptx.sreg.ctaid.x", "i32")
    for i, (kind, word) in enumerate((("i32", str(which)), ("i32", block), ("i32", element))):
        place = e.let(f"getelementptr i32, ptr addrspace(1) {base}, i32 {FIRST + i}")
        e.line(f"store volatile {kind} {word}, ptr addrspace(1) {place}")
    for i, part in enumerate((code, e.let(f"lshr i64 {code}, 32"))):
        place = e.let(f"getelementptr i32, ptr addrspace(1) {base}, i32 {FIRST + 4 + i}")
        e.line(f"store volatile i32 {e.let(f'trunc i64 {part} to i32')}, ptr addrspace(1) {place}")
    e.writer.jump(after)


def failed(e: Emitter, inst: sync.Assert) -> None:
    """In a thread whose assertion failed: says so, and stops the launch."""
    say(e, Report(inst.message, inst.loc), [(None, "0", "0")])
    e.call("llvm.nvvm.membar.sys", "void")
    e.call("llvm.trap", "void")


def printed(e: Emitter, inst: sync.Print) -> None:
    """A record for each element, by its owner."""
    kind, held = inst.x.tile, e.held(inst.x)
    report = Report(inst.label, inst.loc, kind)
    if not kind.rank:
        say(e, report, [(e.let(f"icmp eq i32 {e.tid}, 0"), "0", _code(e, held, kind))])
        return
    points, taking = held.layout.points(), held.layout.owner_mask() & ~held.layout.pad_mask()
    places = np.ravel_multi_index(tuple(np.moveaxis(points, -1, 0)), kind.shape, mode="clip")
    say(e, report, [
        (predicate(e, taking[:, s]), per_thread(e, places[:, s]), _code(e, slot, kind))
        for s, slot in enumerate(held.slots) if taking[:, s].any()
    ])  # fmt: skip


def _code(e: Emitter, slot: str, kind: TileType) -> str:
    bits, word = 8 * kind.dtype.storage.itemsize, e.word([slot], kind.dtype)
    return word if bits == 64 else e.let(f"zext i{bits} {word} to i64")


def described(says: Sequence[Report]) -> list[str]:
    """The lines, as comments of LLVM IR."""
    return [f"; {HEAD}{json.dumps(_told(report))}" for report in says]


def headed(ptx: str, llvm: str) -> str:
    """PTX with the lines of the LLVM IR that it was made from."""
    lines = re.findall(rf"^; ({HEAD}.*)$", llvm, re.MULTILINE)
    return "".join(f"// {line}\n" for line in lines) + ptx


def _told(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"text": report.text}
    if report.loc is not None:
        found |= {"file": report.loc.file, "line": report.loc.line, "source": report.loc.text}
    if report.type is not None:
        found |= {"dtype": report.type.dtype.name, "shape": report.type.shape}
    return found


# On the host.


def reports_of(ptx: str) -> tuple[Report, ...]:
    """What a kernel may say, from the head of its PTX."""
    return tuple(_report(json.loads(line)) for line in re.findall(rf"^// {HEAD}(.*)$", ptx, re.MULTILINE))


def _report(told: dict[str, Any]) -> Report:
    loc = Loc(told["file"], told["line"], told["source"]) if "file" in told else None
    kind = TileType(find_dtype(told["dtype"]), tuple(told["shape"])) if "dtype" in told else None
    return Report(told["text"], loc, kind)


def heard(reports: Sequence[Report], buffer: Array) -> TilecError | None:
    """Prints what was printed, block after block, and forgets it; the error of the first failed assertion."""
    count = int(buffer[0])
    records = buffer[FIRST:].reshape(RECORDS, WORDS)[: min(count, RECORDS)].copy()
    buffer[0] = 0
    failures = [row for row in records if reports[row[0]].type is None]
    for text in _printed(reports, records):
        print(text)
    if count > RECORDS:
        print(f"{count - RECORDS} more elements were printed than the {RECORDS} that there is room for")
    if not failures:
        return None
    first = min(failures, key=lambda row: int(row[1]))
    report = reports[first[0]]
    return TilecError(f"assertion failed in block {first[1]}: {report.text}", report.loc)


def _printed(reports: Sequence[Report], records: Array) -> Iterator[str]:
    """Whole tiles, each as often as its block said it."""
    open_: dict[tuple[int, int], list[dict[int, int]]] = {}
    order: list[tuple[int, int, dict[int, int]]] = []  # block, what is said, codes by element
    for which, block, element, _, low, high in records.tolist():
        if reports[which].type is None:
            continue
        tiles = open_.setdefault((which, block), [])
        tile = next((each for each in tiles if element not in each), None)
        if tile is None:
            tiles.append(tile := {})
            order.append((block, which, tile))
        tile[element] = low | high << 32
    for _, which, tile in sorted(order, key=lambda each: each[0]):
        report = reports[which]
        assert report.type is not None, "assertions are told apart"
        if len(tile) == report.type.size:
            yield report.text + _shown(report.type, [tile[i] for i in range(report.type.size)])


def _shown(kind: TileType, codes: list[int]) -> str:
    storage = kind.dtype.storage
    held = np.array(codes, np.uint64).astype(f"u{storage.itemsize}").view(storage)
    return np.array2string(codec.from_storage(held, kind.dtype).reshape(kind.shape), separator=", ")
