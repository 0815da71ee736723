"""Single accesses: one instruction that moves 1 to 16 bytes, plain or under a predicate.

Plain ones are LLVM loads and stores, which LLVM may combine and move. Predicated ones are inline assembly, as
LLVM IR has no predicate and a branch per access would be slow.
    @p ld.global.v4.b32 {r0, r1, r2, r3}, [address];
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilec.backends.writer import held
from tilec.ir.dtype import DType

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

SPACES = {"global": 1, "shared": 3}
STREAMED = "nc.L1::no_allocate.L2::cache_hint"  # of what is read once


def load(
    e: Emitter, pointer: str, size: int, space: str, read_only: bool, policy: str | None = None
) -> list[str]:
    """`size` bytes as words: i8, i16 or i32s; `policy`: how the L2 cache keeps what a thread reads alone."""
    if policy is not None and read_only and size >= 4:
        return _streamed(e, pointer, size, policy)
    kind = f"i{min(size, 4) * 8}"
    constant = ", !invariant.load !1" if read_only else ""
    source = f"ptr addrspace({SPACES[space]}) {pointer}"
    if size <= 4:
        return [e.let(f"load {kind}, {source}, align {size}{constant}")]
    count = size // 4
    whole = e.let(f"load <{count} x i32>, {source}, align {size}{constant}")
    return [e.let(f"extractelement <{count} x i32> {whole}, i32 {i}") for i in range(count)]


def _streamed(e: Emitter, pointer: str, size: int, policy: str) -> list[str]:
    """Words that are read once: past the L1 cache."""
    suffix, register, kind, count = _shape(size)
    text = f"ld.global.{STREAMED}.{suffix} {_list(0, count)}, [${count}], ${count + 1};"
    given = f"{_address(e, pointer, 'global')}, i64 {policy}"
    returns = kind if count == 1 else "{ " + ", ".join([kind] * count) + " }"
    constraints = ",".join([f"={register}"] * count + ["l", "l"])
    whole = e.let(f'call {returns} asm "{text}", "{constraints}"({given})')
    return [whole] if count == 1 else [e.let(f"extractvalue {returns} {whole}, {i}") for i in range(count)]


def store(e: Emitter, pointer: str, words: Sequence[str], size: int, space: str) -> None:
    """The reverse of `load`."""
    kind, target = f"i{min(size, 4) * 8}", f"ptr addrspace({SPACES[space]}) {pointer}"
    if size <= 4:
        e.line(f"store {kind} {words[0]}, {target}, align {size}")
        return
    whole = "poison"
    for i, word in enumerate(words):
        whole = e.let(f"insertelement <{len(words)} x i32> {whole}, i32 {word}, i32 {i}")
    e.line(f"store <{len(words)} x i32> {whole}, {target}, align {size}")


def _shape(size: int) -> tuple[str, str, str, int]:
    """(PTX suffix, register class, LLVM type, count) of an access of `size` bytes."""
    if size >= 4:
        return ("b32" if size == 4 else f"v{size // 4}.b32"), "r", "i32", size // 4
    return f"b{size * 8}", "h", "i16", 1


def _list(first: int, count: int) -> str:
    return f"${first}" if count == 1 else "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def load_if(
    e: Emitter, condition: str, pointer: str, size: int, space: str, other: Sequence[str], nc: bool,
    policy: str | None = None,
) -> list[str]:  # fmt: skip
    """As `load`, and `other` (words) where the condition is false."""
    suffix, register, kind, count = _shape(size)
    keep = [o if size > 1 else e.let(f"zext i8 {o} to i16") for o in other]
    moves = " ".join(f"mov.{'b32' if size >= 4 else 'b16'} ${i}, ${count + 2 + i};" for i in range(count))
    path, hint = (f"{space}.nc" if nc else space), ""
    constraints = [f"=&{register}"] * count + ["b", "l" if space == "global" else "r"] + [register] * count
    inputs = [f"i1 {condition}", _address(e, pointer, space), *(f"{kind} {o}" for o in keep)]
    if policy is not None and nc:
        path, hint = f"global.{STREAMED}", f", ${len(constraints)}"
        constraints.append("l")
        inputs.append(f"i64 {policy}")
    text = f"{moves} @${count} ld.{path}.{suffix} {_list(0, count)}, [${count + 1}]{hint};"
    given = ", ".join(inputs)
    returns = kind if count == 1 else "{ " + ", ".join([kind] * count) + " }"
    whole = e.let(f'call {returns} asm sideeffect "{text}", "{",".join(constraints)},~{{memory}}"({given})')
    words = [whole] if count == 1 else [e.let(f"extractvalue {returns} {whole}, {i}") for i in range(count)]
    return words if size > 1 else [e.let(f"trunc i16 {words[0]} to i8")]


def store_if(e: Emitter, condition: str, pointer: str, words: Sequence[str], size: int, space: str) -> None:
    """As `store`, where the condition holds."""
    suffix, register, kind, count = _shape(size)
    items = [w if size > 1 else e.let(f"zext i8 {w} to i16") for w in words]
    text = f"@$0 st.{space}.{suffix} [$1], {_list(2, count)};"
    constraints = ",".join(["b", "l" if space == "global" else "r"] + [register] * count)
    given = ", ".join([f"i1 {condition}", _address(e, pointer, space), *(f"{kind} {w}" for w in items)])
    e.line(f'call void asm sideeffect "{text}", "{constraints},~{{memory}}"({given})')


def _address(e: Emitter, pointer: str, space: str) -> str:
    """The address as inline assembly takes it: 64 bits of global, 32 of shared memory."""
    if space == "global":
        return f"ptr addrspace(1) {pointer}"
    return f"i32 {e.let(f'ptrtoint ptr addrspace(3) {pointer} to i32')}"


def copy_async(
    e: Emitter, target: str, source: str, size: int, inside: str | None, who: str | None, policy: str | None
) -> None:
    """cp.async by the threads of `who`: 4, 8 or 16 bytes to shared memory, zeros where not `inside`.

    The number of bytes to read is chosen next to the copy: only there does the assembler see that it is a
    predicate's.
    """
    level = "cg" if size == 16 else "ca"
    if inside is None and who is None and policy is None:
        both = f"ptr addrspace(3) {target}", f"ptr addrspace(1) {source}"
        e.call(f"llvm.nvvm.cp.async.{level}.shared.global.{size}", "void", *both)
        return
    given = [_address(e, target, "shared"), _address(e, source, "global")]
    constraints, under, choice, taken, hint = ["r", "l"], "", "", "", ""
    if inside is not None:
        choice, taken = f".reg .b32 taken; selp.b32 taken, {size}, 0, ${len(given)}; ", ", taken"
        given.append(f"i1 {inside}")
        constraints.append("b")
    if who is not None:
        under = f"@${len(given)} "
        given.append(f"i1 {who}")
        constraints.append("b")
    if policy is not None:
        hint, taken = ".L2::cache_hint", f"{taken}, ${len(given)}"
        given.append(f"i64 {policy}")
        constraints.append("l")
    text = f"{{ {choice}{under}cp.async.{level}.shared.global{hint} [$0], [$1], {size}{taken}; }}"
    e.line(f'call void asm sideeffect "{text}", "{",".join(constraints)},~{{memory}}"({", ".join(given)})')


def reduce_if(
    e: Emitter, condition: str, pointer: str, op: str, value: str, dtype: DType, space: str
) -> None:
    """red: op with an element in memory, indivisibly, where the condition holds; the old value is lost."""
    if dtype.is_float:
        kind, register = ("f", "f") if dtype.bits == 32 else ("f", "d") if dtype.bits == 64 else ("", "h")
        suffix = f"{kind}{dtype.bits}" if kind else f"noftz.{'f16' if dtype.exponent == 5 else 'bf16'}"
    else:
        register = "r" if dtype.bits == 32 else "l"
        letter = "b" if op in ("and", "or", "xor") else "s" if dtype.is_signed and op != "add" else "u"
        suffix = f"{letter}{dtype.bits}"
    lane = held(dtype)
    given = value
    if register == "h":
        lane, given = "i16", e.let(f"bitcast {held(dtype)} {value} to i16")
    text = f"@$0 red.{space}.{op}.{suffix} [$1], $2;"
    address = _address(e, pointer, space)
    constraint = "l" if space == "global" else "r"
    given = f"i1 {condition}, {address}, {lane} {given}"
    e.line(f'call void asm sideeffect "{text}", "b,{constraint},{register},~{{memory}}"({given})')
