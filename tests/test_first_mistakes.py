"""What everybody gets wrong on the first day, each with the message that helps."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec.ir.target import parse_target

Array = np.ndarray[Any, Any]
HERE = re.escape(__file__)


def f32(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def line_of(function: Any, text: str) -> int:
    """The line of this file on which a kernel says something."""
    code = function.definition.code
    start = code.node.lineno
    return next(n for n, line in enumerate(code.lines[start - 1 :], start) if text in line)


def fails(call: Callable[[], object], *texts: str, kernel: Any = None, at: str = "") -> tc.TilecError:
    """The call raises TilecError that says all of this, at the kernel's line that contains `at`."""
    with pytest.raises(tc.TilecError) as caught:
        call()
    for text in texts:
        assert text in str(caught.value), f"{text!r} is not in:\n{caught.value}"
    if at:
        assert caught.value.loc is not None
        assert (caught.value.loc.file, caught.value.loc.line) == (__file__, line_of(kernel, at)), caught.value
    return caught.value


@tc.kernel
def scale(x: tc.Array, out: tc.Array, alpha: tc.f32, *, block=64):
    X, OUT = x.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] * alpha


def test_float64_numpy_into_an_f32_kernel() -> None:
    fails(
        lambda: scale.meaning(np.ones(10), f32(10), 2.0),
        "mul takes tiles of one dtype",
        "found f64[64] and f32[64]",
        "called with x f64[10], out f32[10]",
        "x.astype(np.float32)",
        kernel=scale,
        at="X[i] * alpha",
    )


@tc.kernel
def matmul(a: tc.Array, b: tc.Array, c: tc.Array, *, bm=32, bn=32, bk=32, warps=4):
    (m, k), n = a.shape, b.shape[1]
    tc.require(b.shape[0] == k, c.shape == (m, n))
    A, B, C = a.tiles((bm, bk)), b.tiles((bk, bn)), c.tiles((bm, bn))
    i, j = tc.blocks(*C.shape)
    acc = tc.zeros((bm, bn), tc.f32)
    for s in tc.range(A.shape[1], stages=2):
        acc = tc.dot(A[i, s], B[s, j], acc)
    C[i, j] = acc.to(c.dtype)


@pytest.mark.parametrize("b", [f32(64, 30).T, f32(29, 64)], ids=["transposed", "short"])
def test_transposed_or_short_b(b: Array) -> None:
    b = b if b.shape[0] == 29 else f32(64, 30)
    fails(
        lambda: matmul.meaning(f32(40, 30), b, f32(40, b.shape[1])),
        "the kernel requires b.shape[0] == k",
        f"called with a f32[40, 30], b f32[{b.shape[0]}, {b.shape[1]}], c f32[40, {b.shape[1]}]",
        kernel=matmul,
        at="tc.require",
    )


def test_output_not_allocated() -> None:
    fails(
        lambda: scale.meaning(f32(10), None, 2.0), "out takes an array, found NoneType", "allocate the output"
    )


def test_output_of_the_wrong_dtype() -> None:
    out = np.zeros(10, np.float16)
    fails(
        lambda: scale.meaning(f32(10), out, 2.0),
        "a store keeps the dtype: the array is f16[out.0:2], the tile is f32[64]; cast it with .to(f16)",
        "called with x f32[10], out f16[10]",
        kernel=scale,
        at="OUT[i] =",
    )


@tc.kernel
def forgot_to_cast(x: tc.Array, out: tc.Array):
    tc.blocks(1)
    total = x.load(0, 16).to(tc.f32) + x.load(16, 16)
    out.store(0, total)


def test_forgotten_to() -> None:
    x = np.ones(32, np.float16)
    fails(
        lambda: forgot_to_cast.meaning(x, f32(16)),
        "add takes tiles of one dtype and shape, found f32[16] and f16[16]; cast one with .to(...)",
        kernel=forgot_to_cast,
        at="total =",
    )


@tc.kernel
def relu(x: tc.Array, out: tc.Array):
    tc.blocks(1)
    tile = x.load(0, 16)
    if tile > 0:
        out.store(0, tile)


def test_a_tile_as_condition() -> None:
    fails(
        lambda: relu.meaning(f32(16), f32(16)),
        "if takes a scalar condition, found bool[16]",
        "tc.where",
        kernel=relu,
        at="if tile > 0",
    )


@tc.kernel
def whole_row(x: tc.Array, out: tc.Array):
    row = tc.blocks(x.shape[0])
    tile = x.load((row, 0), (1, x.shape[1]))
    out.store((row, 0), tile * 2)


def test_a_shape_that_is_not_a_constant() -> None:
    fails(
        lambda: whole_row.meaning(f32(3, 5), f32(3, 5)),
        "x.load takes a shape of constants, found scalar i32",
        "tc.static(x.shape[axis])",
        kernel=whole_row,
        at="x.load",
    )


@tc.kernel
def tile_number_for_offset(x: tc.Array, out: tc.Array):
    i = tc.blocks(tc.cdiv(x.shape[0], 16))
    out.store(i, x.load(i, 16))


@tc.kernel
def offset_for_tile_number(x: tc.Array, out: tc.Array):
    X, OUT = x.tiles((16,)), out.tiles((16,))
    i = tc.blocks(*X.shape)
    OUT[i] = X[i * 16]


@tc.kernel
def offset_of_another(x: tc.Array, out: tc.Array):
    X, OUT = x.tiles((16,)), out.tiles((16,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i * 16]


@tc.kernel
def one_block(x: tc.Array, out: tc.Array):
    i = tc.blocks(1)
    out.store(i, x.load(i, 16))


def test_tile_numbers_and_element_offsets() -> None:
    one_block.meaning(f32(16), out := f32(16) * 0)
    assert out.all(), "the only block may say 0 as it likes"
    fails(lambda: offset_of_another.meaning(f32(64), f32(64)), "x.tiles(...)[...] takes tile numbers")
    fails(
        lambda: tile_number_for_offset.meaning(f32(64), f32(64)),
        "out.store takes element offsets, and axis 0 is given a block's number",
        "multiply it by 16",
        kernel=tile_number_for_offset,
        at="out.store",
    )
    fails(
        lambda: offset_for_tile_number.meaning(f32(64), f32(64)),
        "x.tiles(...)[...] takes tile numbers",
        "leave the factor out",
        kernel=offset_for_tile_number,
        at="OUT[i] =",
    )


@tc.kernel
def one_axis(x: tc.Array, *, BLOCK=4):
    _i, _j = tc.blocks(1)


@tc.kernel
def a_shape_as_grid(x: tc.Array):
    tc.blocks(x.shape)


def test_grids() -> None:
    fails(lambda: scale[1,](f32(4), f32(4), 2.0), "scale[...] gives no grid: the kernel sets it, tc.blocks")
    fails(
        lambda: one_axis.meaning(f32(4)),
        "2 names on the left, 1 values on the right: the grid has one axis, and tc.blocks(rows, columns)",
        kernel=one_axis,
        at="_i, _j",
    )
    fails(
        lambda: a_shape_as_grid.meaning(f32(4)),
        "tc.blocks takes one extent per axis, found (scalar i32,): write tc.blocks(*shape)",
        kernel=a_shape_as_grid,
        at="tc.blocks",
    )


@tc.kernel
def every(x: tc.Array, step: tc.i32):
    tc.blocks(1)
    for i in tc.range(0, 8, step):
        x.store(i, 1)


@tc.kernel
def every_read(x: tc.Array, steps: tc.Array):
    tc.blocks(1)
    for i in tc.range(0, 8, steps.at(0)):
        x.store(i, 1)


@pytest.mark.parametrize("step", [0, -1])
@pytest.mark.parametrize("target", ["reference", "cpu", "emulator:sm_80"])
def test_a_step_that_does_not_count_up(target: str, step: int) -> None:
    every.on(target)(x := f32(8) * 0, 2)
    np.testing.assert_array_equal(x, [1, 0] * 4)
    requires = "the kernel requires a step of 1 or more in tc.range"
    fails(lambda: every.on(target)(f32(8), step), requires, kernel=every, at="for i")
    said = "tc.range takes a step of 1 or more"
    fails(lambda: every_read.on(target)(f32(8), np.array([step], np.int32)), said)


def test_constants_in_other_letters() -> None:
    fails(lambda: one_axis.meaning(f32(4), block=2), "one_axis has no constant block; did you mean BLOCK?")
    fails(lambda: one_axis.meaning(f32(4), tiny=2), "one_axis has no constant tiny. It takes BLOCK, warps")


def test_num_warps() -> None:
    a = f32(32, 32)
    fails(
        lambda: matmul.meaning(a, a, a.copy(), num_warps=8),
        "matmul has no constant num_warps; did you mean warps?",
    )


def test_a_kernel_typed_at_a_prompt() -> None:
    text = "import tilec as tc\n@tc.kernel\ndef f(x: tc.Array): pass\n"
    program = f"exec({text!r})"  # what -c gives has a source from Python 3.13 on
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert "TilecError: the source of f cannot be read" in done.stderr
    assert "write it in a file or a notebook cell, not at a prompt" in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"), [("sm90a", "sm_90a"), ("gpu", ""), ("sm_70", ""), ("emulator:sm80", "emulator:sm_80")]
)
def test_a_misspelt_target(name: str, meant: str) -> None:
    a = f32(4, 4)
    for call in (
        lambda: matmul.on(name),
        lambda: matmul.compile(a, a, a.copy(), target=name),
        lambda: parse_target(name),
    ):
        fails(call, f"no target {name!r}", f"did you mean {meant}?" if meant else "")
    with pytest.raises(tc.TilecError, match="no target"), tc.target(name):
        pass


def test_a_target_that_only_compiles() -> None:
    fails(lambda: matmul.on("sm_90a"), "sm_90a is a target to compile for", "emulator:sm_90a")


def test_no_assembler(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilec.backends.ptx import assemble

    monkeypatch.setattr(assemble, "_places", lambda tool: iter(()))
    fails(
        lambda: assemble.assemble(".version 8.0\n", parse_target("sm_80").target),  # type: ignore[arg-type]
        "ptxas",
        "pip install 'tilec[ptxas]'",
    )


def test_a_language_function_outside_a_kernel() -> None:
    fails(
        lambda: tc.zeros((4, 4), tc.f32),
        "tc.zeros is part of the kernel language: call it inside a function marked @tc.kernel",
    )
    fails(lambda: tc.exp(1.0), "tc.exp is part of the kernel language")
    fails(lambda: tc.blocks(4), "tc.blocks is part of the kernel language")
