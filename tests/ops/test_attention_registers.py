"""Attention's kernels on GPUs fit into registers with the boxes and spans that are chosen for them."""

from typing import Any

import pytest

import tilec as tc
from tilec.backends.ptx.assemble import find
from tilec.ops.attention_backward import key_gradient_kernel, query_gradient_kernel
from tilec.ops.attention_kernel import Options, attention_kernel
from tilec.ops.attention_tiling import group_lengths, tiled
from tilec.ops.attention_windows import Axis

EXTENTS, AXES = (56, 56), (Axis(7), Axis(7))
KERNELS = {"out": attention_kernel, "query": query_gradient_kernel, "key": key_gradient_kernel}


def compiled(name: str, dim: int, dtype: str, target: str) -> tc.Compiled:
    """The kernel of a call without additional keys or a bias."""
    kind = tc.dtype(dtype)
    tiling = tiled(AXES, group_lengths(EXTENTS, AXES), dim, kind.bytes, target, name != "out")
    x, row = tc.Spec(kind, ("b", *EXTENTS, "h", dim)), tc.Spec("f32", ("b", *EXTENTS, "h"))
    nothing, bias = tc.Spec(kind, (1,) * 4), tc.Spec("f32", (1, 1, 1))
    specs = {
        "out": (x, x, x, x, row, nothing, nothing, bias),
        "query": (x, x, x, row, row, x, x, nothing, nothing, bias),
        "key": (x, x, x, row, row, x, x, x, bias),
    }[name]
    schedule: dict[str, Any] = tiling._asdict()
    if name == "key":
        del schedule["more_span"]
    return KERNELS[name].compile(*specs, target=target, options=Options(), **schedule)


@pytest.mark.skipif(not find("ptxas"), reason="needs ptxas")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dim", "dtype"), [(64, "f16"), (128, "bf16"), (64, "f32")])
def test_spills(name, dim, dtype, full):
    """None, or a few bytes of gradients, whose blocks are as large as they can be."""
    for target in ("sm_80", "sm_90a") if full else ("sm_80",):
        spilled = compiled(name, dim, dtype, target).resources.spill_bytes
        assert spilled == 0 or (name != "out" and spilled <= 64)


@pytest.mark.skipif(not find("ptxas"), reason="needs ptxas")
def test_wide_heads(full):
    """Of 512 elements: room in sm_120's shared memory, and in registers for what is no gradient."""
    assert compiled("out", 512, "f16", "sm_120").resources.spill_bytes == 0
    for name in ("query", "key") if full else ():
        assert compiled(name, 512, "f16", "sm_120").resources.shared_bytes <= 99 * 1024


def test_gradients_use_no_atomics():
    for name in ("query", "key"):
        ptx = compiled(name, 32, "f16", "sm_80").ptx
        assert "atom." not in ptx and "red." not in ptx.replace("shared.", "")
