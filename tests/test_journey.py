"""One kernel's way through the house: vector add at every station, and the same sums at the end of each."""

from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec.backends.ptx.assemble import find
from tilec.ir.text import parse, show

Array = np.ndarray[Any, Any]


@tc.kernel
def add(x: tc.Array, y: tc.Array, out: tc.Array, *, block=128, warps=1):
    """out = x + y"""
    X, Y, OUT = x.tiles((block,)), y.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] + Y[i]


N = tc.dim("n", multiple=4)
SPECS = (tc.Spec("f32", (N,)),) * 3
HEAD = """\
func add(%x: f32[n:4] {strides=(1), align=16}, %y: f32[n:4] {strides=(1), align=16}, \
%out: f32[n:4] {strides=(1), align=16}) {warps=1} {"""
GRID = """\
  %0 = size %out {axis=0} : i32
  %1 = full {value=1, dtype=i32} : i32
  %2 = sub %0, %1 : i32
  %3 = full {value=128, dtype=i32} : i32
  %4 = floor_div %2, %3 : i32
  %5 = add %4, %1 : i32
  %6 = block_index (%5) {axis=0} : i32
  %7 = mul %6, %3 : i32
  %8 = full {value=0.0, dtype=f32} : f32
"""
TRACED = f"""\
{HEAD}
{GRID}\
  %9 = load %x, (%7), %8 {{shape=(128)}} : f32[128]
  %10 = mul %6, %3 : i32
  %11 = load %y, (%10), %8 {{shape=(128)}} : f32[128]
  %12 = add %9, %11 : f32[128]
  %13 = mul %6, %3 : i32
  store %out, (%13), %12
}}
"""
SIMPLIFIED = f"""\
{HEAD}
{GRID}\
  %9 = load %x, (%7), %8 {{shape=(128)}} : f32[128]
  %10 = load %y, (%7), %8 {{shape=(128)}} : f32[128]
  %11 = add %9, %10 : f32[128]
  store %out, (%7), %11
}}
"""
SPREAD = f"""\
layout L0 = {{[128] thread 32:4; slot 4:1}}
{HEAD}
{GRID}\
  %9 = load %x, (%7), %8 {{shape=(128), layout=L0}} : f32[128]@L0
  %10 = load %y, (%7), %8 {{shape=(128), layout=L0}} : f32[128]@L0
  %11 = add %9, %10 : f32[128]@L0
  store %out, (%7), %11
}}
"""


def compiled(target: str) -> tc.Compiled:
    return add.compile(*SPECS, target=target)


def test_as_traced() -> None:
    func = compiled("reference").traced
    assert show(func) == TRACED
    assert show(parse(TRACED)) == TRACED
    lines = {inst.loc.text.strip() for inst in func.walk() if inst.loc}
    assert lines == {"i = tc.blocks(*OUT.shape)", "OUT[i] = X[i] + Y[i]"}


def test_after_the_passes() -> None:
    assert compiled("cpu").ir == SIMPLIFIED
    assert compiled("sm_90a").ir == SPREAD


def test_llvm() -> None:
    text = compiled("sm_90a").llvm
    assert "define ptx_kernel void @add(ptr addrspace(1)" in text and "fadd float" in text
    assert "fadd <" in compiled("cpu").llvm


def test_ptx() -> None:
    """16 bytes at once, because a multiple of 4 and the alignment prove that they are there."""
    text = compiled("sm_90a").ptx
    assert ".target sm_90a" in text and ".visible .entry add(" in text and ".maxntid 32" in text
    assert text.count("ld.global.nc.v4.b32") == 2 and text.count("st.global.v4.b32") == 1
    assert text.count("add.rn.f32") == 4 and ".extern .func" not in text


def test_asm() -> None:
    assert ".globl" in compiled("cpu").asm


@pytest.mark.skipif(find("ptxas") is None or find("nvdisasm") is None, reason="no assembler on this machine")
def test_sass_and_resources() -> None:
    done = compiled("sm_90a")
    assert done.sass.count("FADD") == 4 and "LDG.E.128" in done.sass and "STG.E.128" in done.sass
    assert 0 < done.resources.registers < 32
    assert (done.resources.spill_bytes, done.resources.shared_bytes) == (0, 0)


def test_what_a_target_lacks() -> None:
    for target, name, message in (
        ("cpu", "ptx", "cpu has no PTX: compile with target='sm_90a'"),
        ("cpu", "sass", "cpu has no SASS"),
        ("cpu", "resources", "cpu has no resources"),
        ("sm_90a", "asm", "sm_90a has no assembly: compile with target='cpu'"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            getattr(compiled(target), name)


@pytest.mark.parametrize("target", ["reference", "cpu", "emulator:sm_80", "emulator:sm_90a"])
def test_every_runner(target: str) -> None:
    for n in (0, 1, 127, 128, 129, 500):
        x = np.arange(n, dtype=np.float32)
        out = np.full(n, np.nan, np.float32)
        add.on(target)(x, x * 2, out)
        np.testing.assert_array_equal(out, x * 3, err_msg=f"n = {n}")


def test_the_target_is_a_context() -> None:
    x, out = np.ones(5, np.float32), np.zeros(5, np.float32)
    with tc.target("emulator:sm_80"):
        add(x, x, out)
    np.testing.assert_array_equal(out, x + x)
    assert {key[0] for key in add._compiled} >= {"emulator:sm_80"}


def test_without_a_grid() -> None:
    """A kernel that asks for no blocks is one block."""

    @tc.kernel
    def first(x: tc.Array, out: tc.Array):
        out.store(0, x.at(0))

    out = np.zeros(3, np.float32)
    first(np.ones(3, np.float32), out)
    np.testing.assert_array_equal(out, [1, 0, 0])
