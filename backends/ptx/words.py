"""Elements of a thread as the words that one access moves, and back.

An access of 1 or 2 bytes moves an i8 or i16, a wider one i32s. 64-bit elements are two words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilec.backends.convert import from_memory, stored, to_memory
from tilec.backends.ptx.emitter import memory_bits
from tilec.ir.dtype import DType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter


def as_words(e: Emitter, slots: Sequence[str], dtype: DType) -> list[str]:
    """Elements as an i8, an i16, or i32s; the first element is in the lowest bits."""
    bits = memory_bits(dtype)
    if bits == 64:
        return [half for slot in slots for half in _split(e, slot, dtype)]
    per = min(len(slots), 32 // bits)
    return [e.word(slots[i : i + per], dtype) for i in range(0, len(slots), per)]


def from_words(e: Emitter, words: Sequence[str], count: int, dtype: DType) -> list[str]:
    """The reverse of `as_words`."""
    if memory_bits(dtype) == 64:
        pairs = zip(words[::2], words[1::2], strict=True)
        return [_join(e, low, high, dtype) for low, high in pairs]
    per = min(count, 32 // memory_bits(dtype))
    return [slot for word in words for slot in e.unword(word, dtype, per)]


def _split(e: Emitter, slot: str, dtype: DType) -> list[str]:
    kind = stored(dtype)
    both = e.let(f"bitcast {kind} {to_memory(e.writer, slot, dtype)} to <2 x i32>")
    return [e.let(f"extractelement <2 x i32> {both}, i32 {i}") for i in range(2)]


def _join(e: Emitter, low: str, high: str, dtype: DType) -> str:
    half = e.let(f"insertelement <2 x i32> poison, i32 {low}, i32 0")
    both = e.let(f"insertelement <2 x i32> {half}, i32 {high}, i32 1")
    return from_memory(e.writer, e.let(f"bitcast <2 x i32> {both} to {stored(dtype)}"), dtype)
