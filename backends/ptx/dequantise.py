"""From integers and floats of at most 8 bits to 16-bit floats, both halves of a register at once.

An integer of no more bits than the mantissa, put into the mantissa of 2^mantissa, is that number plus the
integer, so one subtraction makes the cast; a constant that is subtracted next goes with it (the numbers are
exact throughout). Put `up` bits higher, it counts 2^up times, which a multiplication takes back in the same
instruction: fields that fit the mantissa where they are share one shift, or need none.
    u4 -> f16:  (w & 0x000f000f ^ 0x64006400) - 1024,  (w & 0x00f000f0 ^ 0x64006400) * 2^-4 - 64
A float of fewer exponent bits, its fields moved to where the wider float has them, is right but for the
exponent's bias: one multiplication by a power of two, exact for subnormals too, and none where the kernel
multiplies by that power's inverse. Source of both: Kim et al. 2022, "Who Says Elephants Can't Run", and
FP6-LLM; the masks are one lop3 each.

What a view reads are fields of 32-bit words. Where the two fields of a pair lie 16 bits apart, as
tilec.ir.placement puts them, a shift serves both, and further fields of the word.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilec.backends.ptx.emitter import Field, Fragment
from tilec.backends.writer import held
from tilec.ir import codec, float_placement, placement
from tilec.ir.dtype import DType
from tilec.ir.float_placement import WORD, Merge
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Cast, Full, Mul, Sub
from tilec.ir.inst.shape import Broadcast

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

HALVES = ("half", "bfloat")  # what shares a 32-bit register with another, and has instructions on both
BYTE, HALF, BOTH = 8, 16, 0x10001  # bits of a byte and a half; a 1 at the foot of each half
WHOLE = 0xFFFF  # every bit of a half
SELECT, MASK_XOR, MASK_OR = 0xE4, 0x6A, 0xEA  # lop3: (a & c) | (b & ~c), (a & b) ^ c, (a & b) | c
Pair = tuple[str, str]


def widens(source: DType, into: DType) -> bool:
    """Whether this way serves a cast."""
    return held(into) in HALVES and (_fits_mantissa(source, into) or _fits_exponent(source, into))


def _fits_mantissa(source: DType, into: DType) -> bool:
    """Whether every integer of a dtype, made non-negative, fits the mantissa of a 16-bit float."""
    return source.is_integer and source.bits <= min(8, into.mantissa) and held(into) in HALVES


def _fits_exponent(source: DType, into: DType) -> bool:
    """Whether a float of at most 8 bits has a narrower exponent and mantissa, and no infinity; or the same
    exponent: it is the upper half of the wider float then, special values and all (the largest of those
    without mantissa overflows to infinity, and that is where its bits are).
    """
    if not (source.is_float and source.is_signed and source.bits <= 8 and source.mantissa <= into.mantissa):
        return False
    return _is_upper_half(source, into) or (source.exponent < into.exponent and not source.has_infinity)


def _is_upper_half(source: DType, into: DType) -> bool:
    return source.exponent == into.exponent and (source.has_infinity or not source.mantissa)


def widened(
    e: Emitter, pair: Pair, source: DType, into: DType, less: float = 0, times: float = 1
) -> str:
    """A pair of small integers less a constant, or of small floats times one, as an LLVM vector of two 16-bit
    floats.
    """
    if source.is_integer:
        assert times == 1, "factors go with floats"
        return _from_integers(e, pair, source, into, less)
    assert not less, "constants go with integers"
    return _from_floats(e, pair, source, into, times)


def folded(inst: Inst) -> tuple[Value, float, float] | None:
    """(x, less, times) of cast(x) - less for integers, cast(x) * times for floats, where the instruction that
    the cast takes anyway does that too.
    """
    if not (isinstance(inst, Sub | Mul) and isinstance(inst.a, Cast)):
        return None
    constant = inst.b.x if isinstance(inst.b, Broadcast) else inst.b
    if not isinstance(constant, Full):
        return None
    x, c, into = inst.a.x, float(constant.value), inst.tile.dtype
    if isinstance(inst, Sub):
        return (x, c, 1) if _is_less(x.tile.dtype, into, c) else None
    return (x, 0, c) if _is_factor(x.tile.dtype, into, c) else None


def _is_less(source: DType, into: DType, c: float) -> bool:
    """Whether a constant goes with the subtraction of a cast from integers, exactly: a multiple of 1/2."""
    exact = c % 1 == 0 or (c % 0.5 == 0 and source.bits < into.mantissa)
    return _fits_mantissa(source, into) and exact and 0 <= c < 2 ** (into.mantissa - 1)


def _is_factor(source: DType, into: DType, c: float) -> bool:
    """Whether a factor, a power of two, goes with that of a cast from floats."""
    if held(into) not in HALVES or not _fits_exponent(source, into) or _is_upper_half(source, into):
        return False
    whole = c * 2.0 ** (into.bias - source.bias)
    fits = into.smallest_subnormal <= whole <= into.max and math.frexp(c)[0] == 0.5
    return fits and not (source.has_nan and source.max * c < 1)


def _from_integers(e: Emitter, pair: Pair, source: DType, into: DType, less: float) -> str:
    """The field's sign bit is flipped with the same lop3 that masks it, which makes it non-negative."""
    offset = 1 << (source.bits - 1) if source.is_signed else 0
    base = (into.bias + into.mantissa) << into.mantissa
    up = _room_above(e, pair, source, into.mantissa, int(less % 1 != 0))
    mixed = _bytes_chosen(e, pair, source, base) if not up else None
    if mixed is None:
        mask = ((1 << source.bits) - 1) << up
        mixed = lop3(e, _fields(e, pair, source, up), mask * BOTH, (base | offset << up) * BOTH, MASK_XOR)
    constant = float((1 << into.mantissa - up) + offset + less)
    if not up:
        return _arithmetic(e, "fsub", mixed, constant, into)
    return _arithmetic(e, "fma", mixed, 2.0**-up, into, -constant)


def _bytes_chosen(e: Emitter, pair: Pair, source: DType, base: int) -> str | None:
    """Whole bytes of a word between the upper bytes of `base`: a byte permutation needs no shift."""
    both = _half_apart_fields(e, pair)
    if both is None or source.bits != BYTE or base % 256 or both.pieces[0][1] % BYTE:
        return None
    word, start, _ = both.pieces[0]
    if source.is_signed:
        word = e.let(f"xor i32 {word}, {signed(0x80808080)}")
    first, upper = start // BYTE, base // 256 * 0x01010101
    choice = 0x4040 | first | (first + 2) << 8
    return e.call("llvm.nvvm.prmt", "i32", f"i32 {word}", f"i32 {upper}", f"i32 {choice}")


def _room_above(e: Emitter, pair: Pair, source: DType, mantissa: int, least: int) -> int:
    """How far above the mantissa's foot a pair's fields may stay, so that neighbours in a word share a shift:
    the word's halves are cut into stretches of as many whole fields as fit the mantissa above `least` bits
    (one where halves are subtracted: it is for them).
    """
    both = _half_apart_fields(e, pair)
    if both is None:
        return least
    if both.number is not None and least + source.bits <= mantissa:
        return placement.ups(source.bits, mantissa, least)[both.number]
    start = both.pieces[0][1]
    stretch = (mantissa - least) // source.bits * source.bits
    return least if start % source.bits else least + start % stretch


def _half_apart_fields(e: Emitter, pair: Pair) -> Field | None:
    """The first field of a pair, where the second is 16 bits above it in the same words."""
    first, second = (e.fields.get(slot) for slot in pair)
    if first is None or second is None or second.pieces != first.half_apart:
        return None
    return first


def _from_floats(e: Emitter, pair: Pair, source: DType, into: DType, times: float) -> str:
    """Their bits where the wider floats have them are the numbers, but for the bias of the exponent."""
    if _is_upper_half(source, into):
        return _times(e, _upper_halves(e, pair, source, into), times, into)
    value = _times(e, _in_place(e, pair, source, into), times * 2.0 ** (into.bias - source.bias), into)
    return _with_nan(e, value, times, source, into) if source.has_nan else value


def _times(e: Emitter, word: str, factor: float, into: DType) -> str:
    if factor != 1:
        return _arithmetic(e, "fmul", word, factor, into)
    return e.let(f"bitcast i32 {word} to <2 x {held(into)}>")


def _in_place(e: Emitter, pair: Pair, source: DType, into: DType) -> str:
    """A word with the bits of both floats where the wider ones have them, zeros around them."""
    wanted, both, up = float_placement.places(source, into), _half_apart_fields(e, pair), 0
    pieces = both.pieces if both else ((_fields(e, pair, source, wanted[0]), wanted[0], source.bits),)
    seen: dict[tuple[str, int], int] = {}  # what a word shows when it is turned
    for word, first, size in pieces:
        for i in range(size):
            turned = word, (wanted[up + i] - first - i) % WORD
            seen[turned] = seen.get(turned, 0) | 1 << wanted[up + i]
        up += size
    whole = ""
    for (word, by), mask in seen.items():
        shown = turned_word(e, word, by, mask)
        if whole:
            whole = lop3(e, shown, mask * BOTH, whole, MASK_OR)
        else:
            whole = e.let(f"and i32 {shown}, {signed(mask * BOTH)}")
    return whole


def turned_word(e: Emitter, word: str, by: int, mask: int) -> str:
    """A word turned to the left; shifted, where none of the bits of `mask`, in both halves, go round."""
    if by == 0:
        return word
    if by <= (mask & -mask).bit_length() - 1:
        return e.let(f"shl i32 {word}, {by}")
    if (mask * BOTH).bit_length() + WORD - by <= WORD:
        return e.let(f"lshr i32 {word}, {WORD - by}")
    return e.call("llvm.fshl.i32", "i32", *[f"i32 {x}" for x in (word, word, by)])


def merged_word(e: Emitter, words: list[str], merge: Merge) -> str:
    """A word that placed floats are read from besides their own."""
    first, second = (turned_word(e, words[merge.word], by, WHOLE) for by in (merge.first, merge.second))
    return lop3(e, first, second, merge.mask * BOTH, SELECT)


def _upper_halves(e: Emitter, pair: Pair, source: DType, into: DType) -> str:
    """The same bits with zeros below."""
    both = _half_apart_fields(e, pair)
    if both is not None and source.bits == BYTE and both.pieces[0][1] % BYTE == 0:
        word, start, _ = both.pieces[0]
        first = start // BYTE
        choice = 0x0404 | first << 4 | (first + 2) << 12
        whole = e.call("llvm.nvvm.prmt", "i32", f"i32 {word}", "i32 0", f"i32 {choice}")
    else:
        low = HALF - source.bits
        mask = signed((((1 << source.bits) - 1) << low) * BOTH)
        whole = e.let(f"and i32 {_fields(e, pair, source, low)}, {mask}")
    return whole


def _with_nan(e: Emitter, value: str, times: float, source: DType, into: DType) -> str:
    """The largest code is NaN, and would be the number after the largest: multiplied by what leaves the
    largest finite it is infinite, times zero NaN, and that is added.
    """
    step = 2.0 ** (math.frexp(source.max)[1] - 1 - source.mantissa)
    factor = float(codec.round_to(float(into.max) / (source.max + step / 2) / times, into))
    with e.writer.at_width(2):
        beyond = e.writer.op("fmul", held(into), value, e.writer.constant(factor, into))
        return e.writer.call("llvm.fma", held(into), beyond, e.writer.constant(0.0, into), value)


def _arithmetic(e: Emitter, name: str, word: str, constant: float, into: DType, more: float = 0.0) -> str:
    """Both halves of a word with a constant: fsub, fmul, or an fma with `more` to add."""
    kind = held(into)
    with e.writer.at_width(2):
        both, other = e.let(f"bitcast i32 {word} to <2 x {kind}>"), e.writer.constant(constant, into)
        if name != "fma":
            return e.writer.op(name, kind, both, other)
        return e.writer.call("llvm.fma", kind, both, other, e.writer.constant(more, into))


def _fields(e: Emitter, pair: Pair, source: DType, low: int) -> str:
    """A word with the two fields at bits `low` and 16 + `low`, and anything around them."""
    first, second = (e.fields.get(slot) for slot in pair)
    if first is None or second is None:
        a, b = (e.let(f"zext {held(source)} {slot} to i32") for slot in pair)
        a, b = (e.let(f"shl i32 {x}, {by}") if by else x for x, by in ((a, low), (b, HALF + low)))
        return lop3(e, a, b, 0xFFFF, SELECT)
    a = _gathered(e, first, low)
    if second.pieces == first.half_apart:
        return a
    return lop3(e, a, _gathered(e, second, HALF + low), 0xFFFF, SELECT)


def _gathered(e: Emitter, found: Field, low: int) -> str:
    """A word with a field's pieces from bit `low` on, and anything around them; what is 16 bits above them
    comes along.
    """
    (word, first, up), *others = found.pieces
    whole = _moved(e, word, first, low)
    for word, first, size in others:
        mask = ((1 << size) - 1) << low + up
        whole, up = lop3(e, _moved(e, word, first, low + up), whole, mask * BOTH, SELECT), up + size
    return whole


def _moved(e: Emitter, word: str, start: int, to: int) -> str:
    """A word shifted so that its bit `start` comes to bit `to`."""
    if start == to:
        return word
    return e.let(f"lshr i32 {word}, {start - to}") if start > to else e.let(f"shl i32 {word}, {to - start}")


def signed(word: int) -> int:
    """32 bits as LLVM spells them."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


def lop3(e: Emitter, a: str, b: str | int, c: str | int, table: int) -> str:
    """Any function of three words, bit by bit; constants are part of the instruction."""
    given, operands, count = [a], ["$1"], 1
    for x in (b, c):
        if isinstance(x, int):
            operands.append(f"0x{x & 0xFFFFFFFF:08x}")
        else:
            count += 1
            given.append(x)
            operands.append(f"${count}")
    constraints = ",".join(["=r", *["r"] * count])
    text = f"lop3.b32 $0, {', '.join(operands)}, 0x{table:02x};"
    return e.let(f'call i32 asm "{text}", "{constraints}"({", ".join(f"i32 {x}" for x in given)})')


# Which elements go together.


def partners(e: Emitter, part: Fragment) -> list[tuple[int, int]] | None:
    """The slots, two and two: as they share a register, or as a view's fields lie 16 bits apart, else
    neighbours.

    None where one is left over.
    """
    slots = part.slots
    count = len(slots)
    if count % 2:
        return None
    place = {slot: i for i, slot in enumerate(slots)}
    if len(place) == count:
        for other in (_shared_register, _half_apart):
            found = [(i, place[mate]) for i, slot in enumerate(slots) if (mate := other(e, slot)) in place]
            if len({i for pair in found for i in pair}) == count == 2 * len(found):
                return found
    return [(i, i + 1) for i in range(0, count, 2)]


def _shared_register(e: Emitter, slot: str) -> str:
    """The upper half of the register whose lower half a slot is."""
    return e.upper.get(slot, "")


def _half_apart(e: Emitter, slot: str) -> str:
    """The field 16 bits above a view's field in the same word."""
    found = e.fields.get(slot)
    return e.at_field.get(found.half_apart, "") if found else ""
