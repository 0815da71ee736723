"""Depthwise convolutions as PTX: layers of known networks assemble without spills, and loops are short."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import emulate
from tests.ops.test_depthwise import expected, normal
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.depthwise import planned
from tilec.ops.depthwise_backward import image_gradient
from tilec.ops.depthwise_bands import Bands
from tilec.ops.depthwise_call import depthwise_call, geometry_of
from tilec.ops.depthwise_kernel import Conv, Cut
from tilec.ops.depthwise_tiling import depthwise_plan
from tilec.ops.reference import relative_error

LAYERS: list[dict[str, Any]] = [
    {"shape": (64, 96, 56, 56), "kernel_size": 7},  # ConvNeXt
    {"shape": (64, 384, 14, 14), "kernel_size": 7, "bias": True},
    {"shape": (64, 56, 56, 96), "kernel_size": 7, "layout": "NHWC", "activation": "gelu"},
    {"shape": (64, 14, 14, 384), "kernel_size": 7, "layout": "NHWC", "residual": True},
    {"shape": (64, 12, 56, 56), "kernel_size": (1, 11)},  # InceptionNeXt
    {"shape": (64, 12, 56, 56), "kernel_size": (11, 1)},
    {"shape": (64, 192, 28, 28), "kernel_size": 13},  # UniRepLKNet
    {"shape": (64, 384, 14, 14), "kernel_size": 13},
    {"shape": (64, 96, 56, 56), "kernel_size": 17},  # DCLS
    {"shape": (64, 128, 56, 56), "kernel_size": 31},  # RepLKNet
    {"shape": (64, 256, 28, 28), "kernel_size": 29},
    {"shape": (64, 512, 14, 14), "kernel_size": 27},
    {"shape": (64, 56, 56, 128), "kernel_size": 31, "layout": "NHWC"},
    {"shape": (2, 128, 200, 334), "kernel_size": 31},
    {"shape": (64, 96, 56, 56), "kernel_size": (51, 5)},  # SLaK
    {"shape": (64, 96, 56, 56), "kernel_size": (5, 51)},
]
SAMPLE = LAYERS[2:8:2] + LAYERS[9:14:2] + LAYERS[-1:]


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer["kernel_size"]))
def test_assembles_without_spills(layer: dict[str, Any], dtype: str, target: str, full: bool) -> None:
    if not full and (layer not in SAMPLE or (dtype == "f32") == (target == "sm_80")):
        pytest.skip("make check-all runs it")
    done = ops.depthwise_conv.compile(**layer, padding="same", dtype=dtype, target=target)
    assert "fma.rn.f32" in done.ptx or "mma.sync" in done.ptx
    if find("ptxas"):
        assert done.resources.spill_bytes == 0


def test_small_kernels_are_unrolled() -> None:
    """Each of the 7 x 7 products of 8 sums is there once, and sums share what they read."""
    ptx = ops.depthwise_conv.compile(
        shape=(1, 96, 56, 56), kernel_size=7, padding="same", dtype="f32", target="sm_80"
    ).ptx
    assert ptx.count("fma.rn.f32") == 8 * 7 * 7
    weights = 7 * 7
    assert ptx.count("ld.shared") + ptx.count("ldmatrix.sync") <= (8 + 7 - 1) * 7 + weights


def loops(sass: str) -> list[Counter[str]]:
    """How often each instruction is in each innermost loop: a label up to the branch back to it."""
    found, seen, inside = [], {}, Counter[str]()
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            inside = seen[label[1]] = Counter()
        elif op := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9]+)", line):
            inside[op[1]] += 1
            if op[1] == "BRA" and (back := re.search(r"\.L_x_\d+", line)) and seen.get(back[0]) is inside:
                found.append(inside.copy())
    return found


@pytest.mark.skipif(not find("ptxas") or not find("nvdisasm"), reason="reads machine code")
@pytest.mark.parametrize(
    ("size", "dtype", "op", "most"),
    [(31, "bf16", "HMMA", 2.5), ((51, 5), "f16", "HMMA", 2.5), (31, "f32", "FFMA", 1.6)],
)
def test_loops_are_short(size: Any, dtype: str, op: str, most: float) -> None:
    done = ops.depthwise_conv.compile(
        shape=(64, 128, 56, 56), kernel_size=size, padding="same", dtype=dtype, target="sm_80"
    )
    main = max(loops(done.sass), key=lambda inside: inside[op])
    assert main[op] >= 16 and main.total() <= most * main[op] and not main["BAR"]


def plan(
    extents: tuple[int, int], size: tuple[int, int], dtype: str = "bf16", target: str = "sm_80", **more: Any
) -> Any:
    g = geometry_of(extents, size, more.pop("stride", 1), tuple(n // 2 for n in size), 1)
    conv = Conv(g.stride, before=(g.padding[0][0], g.padding[1][0]), **more)
    return depthwise_plan(g, (64, 96, *extents), conv, tc.dtype(dtype), target)


def test_the_cheaper_schedule_is_chosen() -> None:
    """Small kernels and bands of one row directly, large ones as products along the longer side."""
    for size in ((3, 3), (7, 7), (1, 11), (11, 1)):
        assert isinstance(plan((56, 56), size), Cut)
    assert plan((56, 56), (31, 31)) == Bands(1, 64, 7, parts=21)
    assert plan((56, 56), (51, 5)).turned and not plan((56, 56), (5, 51)).turned
    assert plan((14, 14), (13, 13))[:3] == (4, 16, 2)
    for more in ({"dtype": "f32"}, {"target": "cpu"}, {"stride": 2}, {"summed": 2}):
        assert isinstance(plan((56, 56), (31, 31), **more), Cut), more
    assert isinstance(plan((56, 56), (13, 13), channels_last=True), Cut)


@pytest.mark.parametrize(
    ("shape", "size", "multiplier", "layout", "target"),
    [
        ((3, 2, 13, 15), (12, 13), 1, "NCHW", "emulator:sm_80"),
        ((5, 1, 20, 21), (5, 40), 2, "NCHW", "emulator:sm_90a"),
        ((1, 2, 33, 18), (31, 4), 1, "NCHW", "reference"),
        ((2, 1, 33, 18), (24, 25), 1, "NHWC", "emulator:sm_80"),
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_bands_compute_the_same(
    shape: Any, size: Any, multiplier: int, layout: str, target: str, backward: bool
) -> None:
    x, w = normal(*shape, dtype=np.float16), normal(shape[1] * multiplier, 1, *size, dtype=np.float16)
    given = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "NHWC" else x
    bias = normal(len(w), dtype=np.float16)
    wanted, options = expected(x, w, bias, padding="same"), {"padding": "same", "layout": layout}
    residual = normal(*wanted.shape, dtype=np.float16, seed=3)
    order = (0, 2, 3, 1) if layout == "NHWC" else (0, 1, 2, 3)
    more = residual.transpose(order).copy()
    call = depthwise_call(given, w, padding="same", layout=layout)
    with tc.target(target):
        if backward:
            found = image_gradient(call, more)
        else:
            found = ops.depthwise_conv(given, w, bias, **options, activation="relu", residual=more)
    back = image_gradient(call, more) if backward else (np.maximum(wanted, 0) + residual).transpose(order)
    assert relative_error(found, back) < 1.5e-3


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((1, 1, 20, 56), (13, 13), np.float16),
        ((1, 1, 33, 20), (31, 4), np.float16),
        ((1, 2, 14, 14), (13, 13), np.float32),
        ((1, 4, 7, 7), (17, 5), np.float32),
    ],
)
def test_loops_meet_no_bank_twice(shape: Any, size: Any, dtype: Any) -> None:
    g = geometry_of(shape[2:], size, 1, tuple(n // 2 for n in size), 1)
    x, w = normal(*shape, dtype=dtype), normal(shape[1], *size, dtype=dtype)
    y = np.full((*shape[:2], *g.extents), np.nan, dtype)
    conv = Conv(before=(g.padding[0][0], g.padding[1][0]))
    kernel, given = planned(g, shape, conv, tc.dtype(dtype), "sm_80")
    absent = (None,) * (3 if "bands" in given else 4)
    done = kernel.compile(x, w, *absent, y, target="sm_80", **given)
    report = emulate(done.code, [x, w, y])
    assert report.completed and not report.findings
    lines = done.ptx.splitlines()
    found = {
        i: t for i, t in report.metrics.shared.items() if re.search(r"ldmatrix|ld\.shared", lines[i - 1])
    }
    often = max(t.requests for t in found.values())
    inside = {lines[i - 1]: t for i, t in found.items() if t.requests == often}
    assert len(inside) > 4
    for line, traffic in inside.items():
        matrices = re.search(r"\.x(\d)\.shared", line)
        assert traffic.ratio == (int(matrices[1]) if matrices else 1), line


def test_the_gradient_of_a_large_kernel_fits_into_a_block() -> None:
    compiled = ops.depthwise_conv_backward.compile(
        shape=(1, 56, 56, 16), kernel_size=31, padding=15, layout="NHWC", target="sm_80"
    )
    assert ".visible .entry" in compiled.ptx
