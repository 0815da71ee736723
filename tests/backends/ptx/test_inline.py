"""tc.inline_ptx: the user's text where there is PTX, its meaning everywhere else."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check_kernel
from tilec.backends.origin import origin
from tilec.backends.ptx.assemble import find
from tilec.ir import dtype as dt
from tilec.ir.errors import Loc
from tilec.ir.parse import parse
from tilec.ir.text import show

X = np.random.default_rng(0).standard_normal(100).astype(np.float32)


@tc.kernel
def fused(x: tc.Array, y: tc.Array, out: tc.Array, *, block=64):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    a, b = x.load(i * block, block), y.load(i * block, block)
    got = tc.inline_ptx("fma.rn.f32 $0, $1, $2, $1;", a, b, meaning=lambda a, b: tc.fma(a, b, a))
    out.store(i * block, got * 2)


@tc.kernel
def by_bits(x: tc.Array, out: tc.Array):
    """Two statements, several types, a scalar."""
    v = x.load(0, 64)
    text = "{ .reg .b32 t; xor.b32 t, $1, $2; popc.b32 $0, t; }"
    bits = v.bitcast(tc.i32)
    mask = tc.inline_ptx("mov.u32 $0, 0x55;", meaning=lambda: tc.full((), 0x55, tc.i32))
    count = tc.inline_ptx(text, bits, mask, meaning=lambda b, m: ones(b ^ m))
    out.store(0, count)


def ones(x: tc.Tile) -> tc.Tile:
    total = x & 1
    for _ in range(31):
        x = (x >> 1) & 0x7FFFFFFF
        total = total + (x & 1)
    return total


@tc.kernel
def halves(x: tc.Array, out: tc.Array, *, text="abs.f16 $0, $1;"):
    v = x.load(0, 64)
    out.store(0, tc.inline_ptx(text, v, meaning=lambda v: tc.abs(v)))


def test_every_runner_agrees_and_ptx_has_the_text() -> None:
    out = np.zeros_like(X)
    code = check_kernel(fused, (dt.f32, X), (dt.f32, X[::-1].copy()), (dt.f32, out))
    assert re.search(r"fma\.rn\.f32 %\w+, (%\w+), %\w+, \1;", code.ptx)
    fused.on("cpu")(X, X, out)
    np.testing.assert_allclose(out, 2 * (X * X + X), rtol=1e-6)


def test_texts_of_any_letters_survive_as_ir_text() -> None:
    @tc.kernel
    def odd(x: tc.Array):
        text = "{ // a \"word\"\n mov.b32 $0, $1; }"
        x.store(0, tc.inline_ptx(text, x.load(0, 8), meaning=lambda v: v))

    done = odd.compile(X, target="sm_80")
    assert show(parse(show(done.traced))) == show(done.traced) and '// a "word"' in done.ptx
    with tc.target("emulator:sm_80"):
        odd(X.copy())


def test_types_statements_and_scalars() -> None:
    check_kernel(by_bits, (dt.f32, X[:64]), (dt.i32, np.zeros(64, np.int32)))


@pytest.mark.parametrize(("dtype", "text"), [("f16", "abs.f16 $0, $1;"), ("bf16", "abs.bf16 $0, $1;")])
def test_floats_of_16_bits(dtype: str, text: str) -> None:
    kind: Any = np.float16 if dtype == "f16" else ml_dtypes.bfloat16
    x = X[:64].astype(kind)
    for place in ("reference", "cpu", "emulator:sm_80"):
        halves.on(place)(x, out := np.zeros_like(x), text=text)
        np.testing.assert_array_equal(out.astype(np.float32), np.abs(x.astype(np.float32)), place)


def test_what_it_means_costs_nothing_on_a_gpu() -> None:
    ptx = by_bits.compile(X[:64], np.zeros(64, np.int32), target="sm_80").ptx
    assert "popc.b32" in ptx and "shr" not in ptx.partition("popc")[0].partition("ld.")[2]


@tc.kernel
def wrong(x: tc.Array, *, case=0):
    v = x.load(0, 8)
    if case == 0:
        tc.inline_ptx("ret;", v, meaning=lambda v: v)
    elif case == 1:
        tc.inline_ptx("mov.b32 $0, $1;", 3, meaning=lambda v: v)
    elif case == 2:
        tc.inline_ptx("mov.b32 $0, $1;", v, meaning=lambda v: 3)
    elif case == 3:
        tc.inline_ptx("mov.b32 $0, $1;", v.to(tc.i8), meaning=lambda v: v)
    elif case == 4:
        tc.inline_ptx("neg.f32 $0, $2;", v, meaning=lambda v: -v)
    else:
        tc.inline_ptx("bra $L1; mov.b32 $0, 0;", meaning=lambda: tc.zeros((8,), tc.i32))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, r"takes PTX with \$0 for its result, found 'ret;'"),
        (1, r"takes tiles, found \[3\]: write numbers into the text"),
        (2, "the meaning of tc.inline_ptx gives a tile, found 3"),
        (3, r"works on numbers of 16, 32 or 64 bits, not on i8: cast with \.to"),
        (4, r"has \$0 and \$1 to \$1 \(a \$ itself is \$\$\), found \$2"),
        (5, r"has \$0 \(a \$ itself is \$\$\), found \$L1"),
    ],
)
def test_wrong_use(case: int, message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        wrong.compile(X, target="sm_80", case=case)


def test_operands_of_another_shape() -> None:
    @tc.kernel
    def sums(x: tc.Array):
        v = x.load(0, 8)
        tc.inline_ptx("mov.b32 $0, $1;", v, meaning=lambda v: v.sum())

    with pytest.raises(tc.TilecError, match=r"f32\[8\] does not broadcast to \[\]"):
        sums.compile(X, target="sm_80")


@pytest.mark.parametrize("text", ["neg.f3 $0, $1;", "neg.f32 $0, $1", "negate.f32 $0, $1;"])
def test_wrong_syntax_is_the_users_line(text: str) -> None:
    """Whoever reads the PTX: the emulator, or ptxas."""

    @tc.kernel
    def typo(x: tc.Array, *, text=""):
        v = x.load(0, 8)
        x.store(0, tc.inline_ptx(text, v, meaning=lambda v: -v))

    readers: list[Any] = [lambda: typo.on("emulator:sm_80")(X.copy(), text=text)]
    if find("ptxas"):
        readers.append(lambda: typo.compile(X, target="sm_80", text=text).resources)
    for read in readers:
        with pytest.raises(tc.TilecError, match=r"PTX line \d+: |refuses the PTX") as caught:
            read()
        assert caught.value.loc is not None and "tc.inline_ptx(text, v" in str(caught.value)


def test_without_a_place_there_is_only_the_text() -> None:
    assert origin("add;\n.loc 1 3\n", 2) is None and origin('.file 2 "k.py"\n.loc 1 3\nadd;', 3) is None
    assert origin('.loc 1 3\nadd;\n.loc 1 4\n.file 1 "k.py"', 2) == Loc("k.py", 3)
