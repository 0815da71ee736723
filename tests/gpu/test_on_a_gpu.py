"""Every example and operator on a real GPU: `PYTHONPATH=. python3 -m pytest -m gpu`, skipped without one.

Each operator gives the same as on the CPU, within the bounds of tests/ops, and the examples check themselves.
Not yet run on hardware: without a GPU the same cases run on a driver made for tests, which emulates the PTX.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import installed
from tilec import ops
from tilec.backends.ptx import assemble

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BOUNDS = {"float32": 1e-5, "float16": 1.5e-3, "bfloat16": 1e-2}


def normal(*shape: int, dtype: Any = np.float16, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv(*shape: int, dtype: Any = np.float16) -> tuple[Array, Array, Array]:
    q, k, v = (normal(*shape, dtype=dtype, seed=seed) for seed in range(3))
    return q, k, v


def linear(dtype: str, m: int, activations: str | None = None) -> Callable[[], Any]:
    weight = ops.quantize(normal(96, 256, dtype=np.float32), dtype, group_size=64)
    x, bias = normal(m, 256), normal(96, seed=3)
    return lambda: ops.linear(x, weight, bias, activation="gelu", activations=activations)


def quantize_activation() -> Array:
    """What it stands for."""
    q, scale = ops.quantize_activation(normal(33, 300), "f8e4m3")
    return np.multiply(q.astype(np.float32), scale)


def linear_of_bytes(dtype: str, activations: str) -> Any:
    """x as it comes, rounded before or on the way."""
    weight, x = ops.quantize(normal(96, 256, dtype=np.float32), dtype, group_size=64), normal(33, 256, seed=1)
    q, scale = ops.quantize_activation(x, "i8" if activations == "int8" else activations)
    return ops.linear(q, weight, x_scale=scale), ops.linear(x, weight, activations=activations)


def sparse_linear(dtype: str, m: int) -> Callable[[], Any]:
    w, x = ops.prune_2_4(normal(96, 256)), normal(m, 256)
    weight = ops.sparsify(w) if dtype == "f16" else ops.sparsify(w, dtype, group_size=64)
    return lambda: ops.linear(x, weight, activation="gelu")


def attention_backward() -> Any:
    q, k, v = qkv(1, 40, 2, 32)
    out, lse = ops.attention(q, k, v, return_lse=True)
    return ops.attention_backward(q, k, v, out, lse, normal(*q.shape, seed=4))


def neighborhood_backward() -> Any:
    q, k, v = qkv(1, 12, 11, 2, 32)
    out, lse = ops.na2d(q, k, v, kernel_size=5, return_lse=True)
    return ops.neighborhood_attention_backward(q, k, v, out, lse, normal(*q.shape, seed=4), 5)


def fft_conv_spectrum() -> Any:
    return ops.fft_conv(normal(3, 2, 50), ops.fft_conv_spectrum(normal(2, 50, seed=1, dtype=np.float32), 50))


def merge_attentions() -> Any:
    """Of the first half of the keys, and of the other."""
    q, k, v = qkv(1, 40, 2, 32)
    parts = [ops.attention(q, k[:, s], v[:, s], return_lse=True) for s in (slice(20), slice(20, None))]
    outs, lses = zip(*parts, strict=True)
    return ops.merge_attentions(outs, lses)


def blocks(*sizes: int) -> list[Array]:
    """Matrices near the roots of unity, [2, n, n, 2]."""
    return [normal(2, n, n, 2, seed=n, dtype=np.float32) / 4 for n in sizes]


def inception_depthwise_conv() -> Any:
    """By way of another array, and in place."""
    weights = [normal(2, 1, *size, seed=1) for size in ((3, 3), (1, 11), (11, 1))]
    x = normal(2, 11, 14, 13)
    apart = ops.inception_depthwise_conv(x, *weights)
    return apart, ops.inception_depthwise_conv(x, *weights, in_place=True)


CASES: dict[str, Callable[[], Any]] = {
    "fft_conv": lambda: ops.fft_conv(normal(3, 2, 50), normal(2, 50, seed=1), skip=normal(2)),
    "fft_conv_spectrum": fft_conv_spectrum,
    "butterfly_conv": lambda: ops.butterfly_conv(
        normal(3, 2, 30), normal(2, 30, seed=1), blocks(8, 8), additive=True
    ),
    "butterfly_conv_backward": lambda: ops.butterfly_conv_backward(
        normal(3, 2, 30), normal(3, 2, 30, seed=1), normal(2, 30, seed=2), blocks(8, 8), blocks(8, 8)
    ),
    "tame_kernel": lambda: ops.tame_kernel(normal(3, 50), squash=0.1, smooth=7),
    "tame_kernel_backward": lambda: ops.tame_kernel_backward(
        normal(3, 50), normal(3, 50, seed=1), squash=0.1, smooth=7
    ),
    "fft_conv_backward": lambda: ops.fft_conv_backward(
        normal(3, 2, 50), normal(3, 2, 50, seed=1), normal(2, 50, seed=2)
    ),
    **{f"linear {dtype} {m}": linear(dtype, m) for dtype in ("u4", "i3", "u1", "f6e3m2") for m in (1, 33)},
    **{f"linear {dtype} 33 int8": linear(dtype, 33, "int8") for dtype in ("u4", "i3", "u1")},
    **{
        f"linear {dtype} of {kind}": lambda dtype=dtype, kind=kind: linear_of_bytes(dtype, kind)
        for dtype, kind in (("u4", "int8"), ("u3", "int8"), ("u4", "f8e4m3"), ("f4e2m1", "f8e4m3"))
    },
    "quantize_activation": quantize_activation,
    **{f"linear 2:4 {dtype} {m}": sparse_linear(dtype, m) for dtype in ("u4", "f16") for m in (1, 33)},
    "linear dense": lambda: ops.linear(normal(33, 128), normal(65, 128, seed=1)),
    **{
        f"matmul {kind.__name__}": lambda kind=kind: ops.matmul(
            normal(65, 72, dtype=kind), normal(72, 129, dtype=kind)
        )
        for kind in (np.float16, np.float32, ml_dtypes.bfloat16)
    },
    "attention": lambda: ops.attention(*qkv(2, 77, 3, 64), is_causal=True),
    "na1d": lambda: ops.na1d(*qkv(1, 130, 2, 32), kernel_size=7, dilation=2),
    "na2d": lambda: ops.na2d(*qkv(1, 24, 20, 2, 32), kernel_size=(7, 5)),
    "na3d": lambda: ops.na3d(*qkv(1, 8, 9, 10, 1, 32), kernel_size=3, is_causal=(True, False, False)),
    "neighborhood_attention": lambda: ops.neighborhood_attention(
        *qkv(1, 16, 16, 2, 64), kernel_size=5, stride=2
    ),
    "attention_backward": attention_backward,
    "merge_attentions": merge_attentions,
    "neighborhood_attention_backward": neighborhood_backward,
    "depthwise_conv": lambda: ops.depthwise_conv(
        normal(2, 8, 20, 21), normal(8, 1, 5, 5, seed=1), padding="same"
    ),
    "depthwise_conv_backward": lambda: ops.depthwise_conv_backward(
        normal(2, 8, 20, 21), normal(8, 1, 5, 5, seed=1), normal(2, 8, 20, 21, seed=2), padding="same"
    ),
    "inception_depthwise_conv": inception_depthwise_conv,
    "dcls_kernel": lambda: ops.dcls_kernel(
        normal(9, 1, 26), normal(2, 9, 1, 26, seed=1), (17, 17), sigma=normal(2, 9, 1, 26), version="gauss"
    ),
    "dcls_kernel_backward": lambda: ops.dcls_kernel_backward(
        *(normal(*shape, dtype=np.float32) for shape in ((9, 26), (2, 9, 26), (9, 7, 7)))
    )[:2],
    "causal_conv1d": lambda: ops.causal_conv1d(normal(2, 24, 70), normal(24, 4, seed=1), normal(24, seed=2)),
}
SAMPLE = ("linear i3 33", "matmul float32", "na2d", "depthwise_conv")
BY_THE_HOST = {  # no kernels of their own
    "quantize", "QuantizedWeight", "no_copies", "merge_reparam", "BatchNorm", "Branch",
    "prune_2_4", "sparsify", "SparseWeight",
}  # fmt: skip


def close(found: Any, wanted: Any) -> bool:
    if isinstance(found, tuple):
        return all(f is w or close(f, w) for f, w in zip(found, wanted, strict=True))
    found_, wanted_ = found.astype(np.float64), wanted.astype(np.float64)
    error = np.linalg.norm(found_ - wanted_) / np.linalg.norm(wanted_)
    return bool(np.any(found_) and error < BOUNDS[found.dtype.name])


@pytest.mark.gpu
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    with tc.target("cuda:0"):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    wanted = CASES[name]()
    with tc.target("cuda:0"):
        found = CASES[name]()
    assert close(found, wanted)


@tc.kernel
def scaled(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=256):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    y.store(i * block, x.load(i * block, block) * alpha)


@pytest.mark.gpu
def test_arrays_on_the_device() -> None:
    x = normal(100_003, dtype=np.float32)
    there, y = tc.to_device(x), tc.to_device(np.zeros_like(x))
    for alpha in (2, 3):
        scaled(there, y, alpha)
        np.testing.assert_array_equal(y.numpy(), x * np.float32(alpha))


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_arrays_of_other_libraries(library: str) -> None:
    """On a side stream of theirs: nothing waits but what has to."""
    there = pytest.importorskip(library)
    if library == "torch":
        with there.cuda.stream(there.cuda.Stream()):
            x = there.arange(100_003, device="cuda", dtype=there.float32)
            y = there.zeros_like(x)
            scaled(x, y, 2.0)
            assert bool((y == 2 * x).all())
        return
    with there.cuda.Stream(non_blocking=True):
        x = there.arange(100_003, dtype=there.float32)
        y = there.zeros_like(x)
        scaled(x, y, 2.0)
        assert bool((y == 2 * x).all())


@pytest.mark.gpu
def test_saved_kernels(tmp_path: Path) -> None:
    x = normal(1000, dtype=np.float32)
    there, y = tc.to_device(x), tc.to_device(np.zeros_like(x))
    scaled.compile(there, y, 0, target="cuda:0").save(tmp_path / "scaled.tilec")
    tc.load(tmp_path / "scaled.tilec")(there, y, 2)
    np.testing.assert_array_equal(y.numpy(), 2 * x)


TALKS = """
import sys
import numpy as np
import tilec as tc

@tc.kernel
def talks(x: tc.Array):
    i = tc.blocks(tc.cdiv(x.shape[0], 8))
    tile = x.load(i * 8, 8)
    tc.print("tile", tile)
    tc.assert_(tile < float(sys.argv[2]), "too large")

with tc.target(sys.argv[1]):
    talks(np.arange(24, dtype=np.float32))
"""


def said(path: Path, place: str, most: int) -> tuple[int, str, str]:
    """In a process of its own, as a failed assertion ends what a process can do with its GPU."""
    path.write_text(TALKS)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), place, str(most)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.gpu
def test_what_kernels_print_and_assert(tmp_path: Path) -> None:
    assert said(tmp_path / "talks.py", "cuda:0", 100) == said(tmp_path / "talks.py", "cpu", 100)
    status, _, error = said(tmp_path / "talks.py", "cuda:0", 12)
    assert status == 1 and "assertion failed in block 1: too large" in error


@pytest.mark.gpu
def test_clusters() -> None:
    x = normal(4096, dtype=np.float32)
    y = np.zeros_like(x)
    with tc.target("cuda:0"):
        try:
            scaled(x, y, 2, cluster=4)
        except tc.TilecError as error:
            pytest.skip(str(error))  # a GPU without clusters
    np.testing.assert_array_equal(y, 2 * x)


# Without a GPU.


def test_the_script_that_talks(tmp_path: Path) -> None:
    status, words, error = said(tmp_path / "talks.py", "emulator:sm_80", 100)
    assert status == 0 and words.count("tile [") == 3, error
    status, _, error = said(tmp_path / "talks.py", "cpu", 12)
    assert status == 1 and "assertion failed in block 1: too large" in error


def test_every_operator_is_here() -> None:
    names = {name for name, value in vars(ops).items() if callable(value) and name[0] != "_"}
    assert names - BY_THE_HOST == {case.split()[0] for case in CASES}


@pytest.mark.parametrize("name", CASES)
def test_operators_on_the_stub(name: str, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not full and name not in SAMPLE:
        pytest.skip("make check-all runs it")
    wanted = CASES[name]()
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    with installed() as stub, tc.target("cuda:1"):
        found = CASES[name]()
        assert stub.launches and not stub.memory
    assert close(found, wanted)
