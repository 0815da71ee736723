"""Codes to bytes, four at once: every code of every type that lies so, and what it costs."""

import re
from math import gcd

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import check, out
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir import byte_placement, placement
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.layout import Layout, local, spatial
from tilec.ir.layouts import mma_b
from tilec.ops.tiling import Weighted
from tilec.ops.weight import default_zero

SMALL = [d for d in dt.ALL if d.bits <= 8 and not d.is_bool]
INTEGERS = [d for d in SMALL if d.is_integer]
E4M3 = [d for d in SMALL if byte_placement.serves(d, dt.f8e4m3)]
SAMPLE = ("u1", "u3", "i4", "u7", "i8", "i2", "f4e2m1", "f5e2m2", "f6e3m2")


@tc.kernel
def raised(x: tc.Array, y: tc.Array, *, source, fragment, up, less, lanes, warps=1):
    """(w << up) - less, as linear layers write it for products of i8."""
    w = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=lanes).to(tc.i8)
    w = w << up if up else w
    y.store((0, 0), w - less if less else w)


@tc.kernel
def less_zeros(x: tc.Array, zeros: tc.Array, y: tc.Array, *, source, fragment, up, lanes, warps=1):
    """(w - zero) << up, a zero for each row."""
    w = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=lanes).to(tc.i8) << up
    y.store((0, 0), w - (zeros.load((0, 0), (fragment.shape[0], 1)) << up))


@tc.kernel
def as_floats(x: tc.Array, y: tc.Array, *, source, fragment, up, less, times, lanes, warps=1):
    w = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=lanes)
    if source.is_integer:
        w = w.to(tc.i8) << up if up else w.to(tc.i8)
        w = w - less if less else w
    y.store((0, 0), w.to(tc.f8e4m3) * times)


@tc.kernel
def differences(x: tc.Array, zeros: tc.Array, y: tc.Array, *, source, fragment, lanes, warps=1):
    """(w - zero) as a float, a zero for each row."""
    w = tc.view(x.load(0, fragment.nbytes(source)), source, fragment, placed=lanes).to(tc.i8)
    w = w - zeros.load((0, 0), (fragment.shape[0], 1))
    y.store((0, 0), w.to(tc.f8e4m3) * 2.0**-9)


def fragment(kind: DType) -> Layout:
    """Eight rows, each thread a unit of one of them."""
    return spatial(8, 4) * local(1, 32 // gcd(kind.bits, 8))


def every_code(kind: DType, shape: Layout, lanes: DType) -> np.ndarray:
    """A tile of them as bytes, and they come out of a view as they are."""
    codes = np.resize(np.arange(1 << kind.bits), shape.size).astype(np.uint8)
    held = codes.reshape(shape.threads, shape.slots)
    assert placement.is_placed(kind, shape.slots, lanes)
    words = placement.placed(held, kind, lanes).astype("<u4").view(np.uint8)
    source = shape.bytes(kind)
    return words.reshape(-1)[np.argsort(source.points().reshape(-1))]


def wrapped(x: float) -> int:
    return (int(x) + 128) % 256 - 128


def judge(kernel: tc.Kernel, arrays: list, lanes: DType, more: float = 0, **constants) -> None:
    """All runners agree, and a code takes what its placement says, and `more` for further arithmetic."""
    into = constants.pop("into", lanes if lanes.is_float else dt.i8)
    specs = *arrays[:-1], tc.Spec(into, arrays[-1].shape)
    check(kernel.compile(*specs, target="reference", lanes=lanes, **constants).traced, arrays)
    ptx = kernel.compile(*specs, target="sm_80", lanes=lanes, **constants).ptx
    source, slots = constants["source"], constants["fragment"].slots
    taken = re.findall(r"\b(?:lop3|shf|prmt|xor|and|sub|not)\.(?:b32|s32|l\.wrap\.b32|r\.wrap\.b32)", ptx)
    cost = byte_placement.integer_instructions(byte_placement.wanted(source, lanes)) + more
    assert len(taken) <= slots * cost + 8


def sampled(kind: DType, full: bool) -> None:
    if not full and kind.name not in SAMPLE:
        pytest.skip("make check-all runs it")


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integers_at_the_top_of_bytes(kind: DType, full: bool) -> None:
    sampled(kind, full)
    shape, up = fragment(kind), 8 - kind.bits
    less = wrapped(default_zero(kind) * 2**up)
    arrays = [every_code(kind, shape, dt.i8), out(shape.shape, dt.i8)]
    judge(raised, arrays, dt.i8, source=kind, fragment=shape, up=up, less=less)


@pytest.mark.parametrize("kind", [d for d in INTEGERS if d.bits < 8], ids=str)
@pytest.mark.parametrize("lanes", [dt.u8, dt.i8], ids=str)
def test_integers_less_zeros(kind: DType, lanes: DType, full: bool) -> None:
    sampled(kind, full)
    shape = fragment(kind)
    zeros = np.resize(np.array([0, kind.min, kind.max, -77], np.int8), (8, 1))
    for up in range(8 - kind.bits) if full else (0, 7 - kind.bits):
        arrays = [every_code(kind, shape, lanes), zeros, out(shape.shape, dt.i8)]
        judge(less_zeros, arrays, lanes, 0.75, source=kind, fragment=shape, up=up)


@pytest.mark.parametrize("kind", E4M3, ids=str)
def test_small_floats(kind: DType, full: bool) -> None:
    sampled(kind, full)
    shape, halves = fragment(kind), int(kind == dt.u1)
    times = 2.0**-9 if kind.is_integer else 2.0 ** (kind.bias - 7)
    less = int(default_zero(kind) * (1 + halves)) if kind.is_integer else 0
    arrays = [every_code(kind, shape, dt.f8e4m3), out(shape.shape, dt.f8e4m3)]
    more = 0.75 * (kind.is_integer and not halves)
    judge(as_floats, arrays, dt.f8e4m3, more, source=kind, fragment=shape, up=halves, less=less, times=times)


@pytest.mark.parametrize("kind", [d for d in INTEGERS if d.bits <= 4], ids=str)
def test_small_floats_less_zeros(kind: DType, full: bool) -> None:
    sampled(kind, full)
    shape, least = fragment(kind), int(kind.max) - 16
    zeros = np.resize(np.array([0, kind.min, kind.max, least, int(kind.min) + 16], np.int8), (8, 1))
    arrays = [every_code(kind, shape, dt.u8), zeros, out(shape.shape, dt.f8e4m3)]
    judge(differences, arrays, dt.u8, 1.75, into=dt.f8e4m3, source=kind, fragment=shape)


@pytest.mark.skipif(not find("ptxas"), reason="there is no ptxas")
@pytest.mark.parametrize(("name", "activations", "integer"), [
    ("u1", "int8", 0.47), ("u2", "int8", 0.44), ("u3", "int8", 0.54), ("u4", "int8", 0.38),
    ("i4", "int8", 0.38), ("u5", "int8", 0.60), ("u6", "int8", 0.57), ("u7", "int8", 0.66),
    ("u8", "int8", 0.25),
    ("u3", "f8e4m3", 1.29), ("u4", "f8e4m3", 1.13), ("f4e2m1", "f8e4m3", 0.63), ("f6e3m2", "f8e4m3", 0.57),
])  # fmt: skip
def test_the_loop_of_quantised_weights(name: str, activations: str, integer: float, full: bool) -> None:
    """So many integer instructions a weight in the machine code, 128 weights of a thread in a round."""
    if not full and name not in ("u3", "u4", "f4e2m1"):
        pytest.skip("make check-all runs it")
    problem = {"m": 16, "n": 4096, "k": 4096, "weight": name, "group_size": 128, "activations": activations}
    kind = tc.i8 if activations == "int8" else tc.f8e4m3
    form = Weighted(16, mma_b(kind, (128, 128), 4), placed=kind)
    done = ops.linear.compile(**problem, target="sm_89", schedule=form)
    loop = done.hot_loop
    assert loop is not None and loop.products == 16 and done.resources.spill_bytes == 0
    adds = 32 if activations == "f8e4m3" and name.startswith("u") else 0
    assert sum(loop.counts.get(op, 0) for op in ("LOP3", "SHF", "PRMT")) + adds <= 128 * integer + 8
