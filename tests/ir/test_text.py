"""What is printed reads back: the same text, the same meaning."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.ir.kernels import KERNELS, Body, array, matmul, same, vector_add
from tilec.ir import dtype as dt
from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.fields import block_fields, operand_fields
from tilec.ir.func import Arg, Block, Func, Inst
from tilec.ir.inst import INSTRUCTIONS
from tilec.ir.inst.arith import Add, Full
from tilec.ir.inst.memory import Alloc, Store
from tilec.ir.inst.shape import Convert
from tilec.ir.layout import Layout, local, memory, spatial
from tilec.ir.parse import read_layout
from tilec.ir.passes.order import lower
from tilec.ir.run import State
from tilec.ir.swizzle import Swizzle
from tilec.ir.target import target
from tilec.ir.text import describe, parse, show
from tilec.ir.tile import ArrayType, Dim, TileType, TokenType


@pytest.mark.parametrize("where", ["", "cpu", "sm_80", "sm_90a"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_read_back_before_and_after_all_passes(name: str, where: str) -> None:
    case = KERNELS[name]()
    func = lower(case.func, target(where)) if where else case.func
    text = show(func)
    again = parse(text)
    assert show(again) == text
    runs = (case.run(f, State(output=lambda said: None)) for f in (func, again))
    assert same(*runs)


def test_the_text_of_a_kernel() -> None:
    assert (
        show(vector_add().func)
        == """\
func vector_add(%x: f32[n:1024] {strides=(1), align=16}, %y: f32[n:1024] {strides=(1), align=16}, \
%z: f32[n:1024] {strides=(1), align=16}) {warps=4} {
  %0 = size %x {axis=0} : i32
  %1 = full {value=1023, dtype=i32} : i32
  %2 = add %0, %1 : i32
  %3 = full {value=1024, dtype=i32} : i32
  %4 = floor_div %2, %3 : i32
  %5 = block_index (%4) {axis=0} : i32
  %6 = full {value=1024, dtype=i32} : i32
  %7 = mul %5, %6 : i32
  %8 = full {value=0, dtype=f32} : f32
  %9 = load %x, (%7), %8 {shape=(1024)} : f32[1024]
  %10 = full {value=0, dtype=f32} : f32
  %11 = load %y, (%7), %10 {shape=(1024)} : f32[1024]
  %12 = add %9, %11 : f32[1024]
  store %z, (%7), %12
}
"""
    )


def test_loops_are_indented_and_views_are_numbered_anew() -> None:
    text = show(matmul(stages=3).func)
    assert "{stages=3} : (f32[32, 16])\n    body(%s: i32, %arg: f32[32, 16]):\n      %" in text
    assert "      yield %" in text and "shared" not in text
    first, second = (show(KERNELS["dilated"]().func) for _ in range(2))
    assert first == second and "f32[view0, 8]" in first


def test_layouts_have_names_at_the_top() -> None:
    x, b = array("x", dt.f32, 64), Body()
    at = (b.i32(0),)
    held = spatial(32) * local(2)
    tile = b(Convert(b(Convert(b.load(x, at, (64,)), held)), spatial(64)))
    b(Store(x, at, b(Convert(tile, held))))
    text = show(
        Func("convert", (x,), Block((), tuple(b)), {"warps": 1, "cluster": (2, 1, 1), "alias": ("x",)})
    )
    assert text.startswith(f"layout L0 = {held}\nlayout L1 = {spatial(64)}\nfunc convert(")
    assert "{layout=L0} : f32[64]@L0" in text and '{warps=1, cluster=(2, 1, 1), alias=("x")}' in text
    assert show(parse(text)) == text


@pytest.mark.parametrize(
    "layout",
    [
        spatial(8, 4) * local(1, 2),
        local(3, 5),
        memory(((Digit(8, (64,)),), (Digit(64, (1,)),)), 512, Swizzle(3, 4, 3)),
        spatial(4).replicated(threads=8),
    ],
    ids=str,
)
def test_layouts_read_back(layout: Layout) -> None:
    assert read_layout(str(layout)) == layout


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, -2.5, math.inf, -math.inf, 3, -7, 1e300])
def test_constants_read_back(value: float) -> None:
    b = Body()
    kept = b(Full(value, dt.f64))
    text = show(Func("constant", (), Block((), (kept,))))
    again = next(parse(text).walk())
    assert isinstance(again, Full) and repr(again.value) == repr(value)
    nan = show(Func("constant", (), Block((), (Full(math.nan, dt.f32), Full(True, dt.bool, (2,))))))
    assert "{value=nan, dtype=f32}" in nan and "{value=true, dtype=bool, shape=(2)}" in nan
    assert show(parse(nan)) == nan


def test_arguments_of_every_type_read_back() -> None:
    odd = (Dim("true"), Dim("f16", 8), Dim("a b", 2), Dim("L0"), Dim("x.0.stride", 4), Dim('say "so"'))
    args = (
        Arg(ArrayType(dt.u4, odd, (*odd[:5], 1), 4, packed=True), "codes"),
        Arg(ArrayType(dt.f32, (8, 8), (8, 1), 128, "shared", local(8, 8)), "buffer"),
        Arg(TileType(dt.bf16, (16,), spatial(16)), "tile"),
        Arg(TileType(dt.i64), "n"),
        Arg(TokenType(), "copy"),
        Arg(TileType(dt.i64), ""),
        Arg(TileType(dt.i64), "n"),
    )
    text = show(Func("args", args, Block((), ())))
    again = parse(text)
    assert [a.type for a in again.params] == [a.type for a in args] and show(again) == text
    assert [a.name for a in again.params] == ["codes", "buffer", "tile", "n", "copy", "arg", "n.1"]


def test_strings_with_marks_in_them() -> None:
    b = Body()
    from tilec.ir.inst.sync import Print

    b(Print('a "quoted" % {brace} : # hash\n', b.i32(1)))
    text = show(Func("says", (), Block((), tuple(b))))
    assert show(parse(text)) == text


def test_lines_of_the_source_are_comments() -> None:
    func = vector_add().func
    text = show(func, lines=True)
    assert "  # kernel.py:" in text and show(parse(text)) == show(func)
    add = next(i for i in func.walk() if isinstance(i, Add))
    assert describe(add) == f"%0 = add %?size, %?full : i32  # {add.loc}"


def test_instructions_say_what_their_fields_hold() -> None:
    """Every instruction's fields sort into values, blocks and constants, whatever instance there is."""
    for kind in INSTRUCTIONS.values():
        assert not set(operand_fields(kind)) & set(block_fields(kind))
    for make in KERNELS.values():
        for inst in make().func.walk():
            held = [getattr(inst, name) for name in operand_fields(type(inst))]
            flat = [
                v for part in held for v in (part if isinstance(part, tuple) else (part,)) if v is not None
            ]
            assert tuple(flat) == inst.operands


ERRORS = {
    "func f() {\n  %0 = frob\n}": "expected an instruction, found 'frob' in the IR text: %0 = frob",
    "func f() {\n  %0 = neg %1\n}": "expected a value defined above, found '%1' in the IR text: %0 = neg %1",
    "func f() {\n  %0 = full {value=1": "expected ',', found the end of the line|expected",
    "func f() {": "expected '}', found the end of the IR text",
    "func f(%x: f99) {\n}": "expected a type, found 'f99'",
    "func f() {\n  %0 = full {value=?, dtype=f32}\n}": r"expected a constant, found '\?'",
    "def f() {\n}": "expected 'func', found 'def'",
}


@pytest.mark.parametrize("text", ERRORS)
def test_text_that_does_not_read(text: str) -> None:
    with pytest.raises(TilecError, match=ERRORS[text]):
        parse(text)


def test_an_attribute_without_a_spelling_is_our_mistake() -> None:
    func = Func("odd", (), Block((), (Alloc(dt.f32, (4,)),)), {"warps": object()})
    with pytest.raises(AssertionError, match="has no spelling"):
        show(func)


def test_values_without_a_place_have_no_name() -> None:
    lost = Full(1, dt.i32)
    inst: Inst = Add(lost, lost)
    func = Func("lost", (), Block((), (inst,)))
    assert "%0 = add %?full, %?full : i32" in show(func)
    assert show(replace(func, name="other")).startswith("func other()")
