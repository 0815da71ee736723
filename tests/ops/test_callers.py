"""Whose arrays operators take and return: numpy's in every form, other libraries', those of a GPU."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import StubDriver, installed
from tests.gpu import test_on_a_gpu as gpu
from tilec import ops
from tilec.backends.ptx import assemble
from tilec.device import memory_of
from tilec.ops import callers
from tilec.ops.arrays import assign, contiguous, copied, empty, flat, says, written_flat, zeros

Array = np.ndarray[Any, Any]
F32 = tc.dtype("f32")


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


A, W = normal(4, 6), normal(5, 6, seed=1)


def misaligned(x: Array) -> Array:
    held = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    held[...] = x
    return held


def read_only(x: Array) -> Array:
    held = x.copy()
    held.flags.writeable = False
    return held


def odd_strides(x: Array) -> Array:
    """Steps that are no multiple of an element."""
    fields = np.zeros(x.shape, [("tag", "u1"), ("x", x.dtype)])
    fields["x"] = x
    return fields["x"]


FORMS: dict[str, Callable[[Array], Array]] = {
    "dense": lambda x: x,
    "f-ordered": np.asfortranarray,
    "read-only": read_only,
    "misaligned": misaligned,
    "every other": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "backwards inside": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "odd strides": odd_strides,
}
COPIED = {"backwards", "backwards inside", "odd strides"}


@pytest.mark.parametrize("form", FORMS)
def test_numpy_in_every_form(form: str) -> None:
    x, w = FORMS[form](A), FORMS[form](W)
    with nullcontext() if form in COPIED else ops.no_copies():
        np.testing.assert_allclose(ops.linear(x, w), x @ w.T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ops.matmul(x, w.T), x @ w.T, rtol=1e-5, atol=1e-5)
    if form in COPIED:
        message = r"x, of strides .*, would be copied, and ops\.no_copies"
        with pytest.raises(tc.TilecError, match=message), ops.no_copies():
            ops.linear(x, W)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_dtypes_that_products_have(dtype: Any) -> None:
    assert ops.matmul(A.astype(dtype), W.T.astype(dtype)).dtype == dtype


def test_codes_of_eight_bits() -> None:
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        y = ops.linear(A.astype(dtype), W.astype(np.float16), x_scale=np.ones(4, np.float32))
        wanted = A.astype(dtype).astype(np.float32) @ W.astype(np.float16).astype(np.float32).T
        np.testing.assert_allclose(y.astype(np.float32), wanted, rtol=2e-3, atol=2e-3)


def test_nothing_to_do() -> None:
    assert ops.linear(A[:0], W).shape == (0, 5)
    assert ops.linear(np.zeros((2, 0, 6), np.float32), W).shape == (2, 0, 5)
    np.testing.assert_array_equal(ops.linear(A[:, :0], W[:, :0]), np.zeros((4, 5)))
    assert ops.matmul(np.zeros((0, 3, 4), np.float32), np.zeros((0, 4, 2), np.float32)).shape == (0, 3, 2)


def test_what_is_refused() -> None:
    far = np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), (2**31, 6), (0, 4))
    backwards = np.zeros((4, 5), np.float32)[::-1]
    for call, message in (
        (lambda: ops.linear(np.ones((), np.float32), W), "x needs at least 1 axes"),
        (lambda: ops.linear(far, W), r"x is \[2147483648, 6\]: extents end at 2\^31 - 1; split the array"),
        (lambda: ops.linear(A.astype(">f4"), W), "byte-swapped"),
        (lambda: ops.linear(A, W, out=backwards), "^out runs backwards along axis 0: pass"),
        (
            lambda: ops.linear(A, W, out=read_only(np.zeros((4, 5), np.float32))),
            "out is read-only, as arrays",
        ),
        (lambda: ops.linear([1.0], W), "x takes an array, found list"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            call()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'weight'"):
        ops.linear(A)


def test_elements_beyond_two_to_the_31() -> None:
    """Rows 2^31 elements apart: memory that is never touched costs nothing."""
    far = np.zeros(2**31 + 64, np.float16)
    x = np.lib.stride_tricks.as_strided(far, (2, 64), (2**32, 2))
    x[...] = normal(2, 64, dtype=np.float16)
    y = ops.linear(x, normal(8, 64, seed=1, dtype=np.float16))
    np.testing.assert_allclose(y, x @ normal(8, 64, seed=1, dtype=np.float16).T, rtol=2e-2, atol=2e-2)
    many = np.broadcast_to(A[:1, :1], (40_000, 60_000))
    np.testing.assert_allclose(ops.matmul(many[:3], many.T[:, :2]), 60_000 * A[0, 0] ** 2, rtol=1e-4)


def test_results_that_are_written_through_a_copy() -> None:
    wide = np.zeros((2, 3, 2, 5), np.float32).transpose(0, 2, 1, 3)
    x = normal(2, 2, 3, 6)
    assert ops.linear(x, W, out=wide) is wide
    np.testing.assert_allclose(wide, x @ W.T, rtol=1e-5, atol=1e-5)
    with ops.no_copies(), pytest.raises(tc.TilecError, match=r"out, of strides .* written through a copy"):
        ops.linear(x, W, out=wide)


def test_flattening() -> None:
    for x in (normal(2, 3, 4), normal(3, 2, 4).transpose(1, 0, 2), normal(1, 3, 4), normal(2, 1, 4)[:, ::-1]):
        view = says(x, 2)
        assert view == np.shares_memory(flat(x, 2), x)
        np.testing.assert_array_equal(flat(x, 2), x.reshape(-1, 4))


def test_only_what_the_caller_brings_is_imported() -> None:
    program = (
        "import sys, numpy as np; from tilec import ops; "
        "ops.linear(np.ones((2, 8), np.float32), ops.quantize(np.ones((3, 8), np.float32), 'u4')); "
        "print(*({'torch', 'jax', 'jaxlib', 'cupy', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_tilec_torch_without_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import tilec.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: tilec.torch needs torch, which is not installed: pip install torch" in done.stderr


# Other libraries, of the host.


class Foreign:
    """An array of some library that can be read by DLPack."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.x.__dlpack_device__()  # type: ignore[no-any-return]

    def __dlpack__(self, **words: Any) -> Any:
        return self.x.__dlpack__(**words)


class Standard(Foreign):
    """One of a library that follows the array API."""

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=lambda x: Standard(memory_of(x, "x")))


def test_a_library_with_from_dlpack() -> None:
    y = ops.linear(Standard(A), Standard(W))
    assert isinstance(y, Standard)
    np.testing.assert_allclose(y.x, A @ W.T, rtol=1e-5, atol=1e-5)
    small = ops.matmul(Standard(A), W.T, out_dtype="bf16")
    assert small.x.dtype == ml_dtypes.bfloat16  # by a capsule of our own: numpy has none
    out = Standard(np.zeros((4, 5), np.float32))
    assert ops.linear(Standard(A), W, out=out) is out
    np.testing.assert_allclose(out.x, y.x)
    results = ops.attention(*(Standard(normal(1, 4, 2, 8, seed=s)) for s in range(3)), return_lse=True)
    assert isinstance(results, tuple) and all(isinstance(x, Standard) for x in results)
    merged = ops.merge_attentions([results[0], results[0]], (results[1], results[1]))
    np.testing.assert_allclose(merged[0].x, results[0].x, rtol=1e-5)
    assert isinstance(ops.quantize(Standard(W), "u4"), ops.QuantizedWeight)


def test_a_library_without() -> None:
    with pytest.raises(tc.TilecError, match="x is of tests, which has no from_dlpack to take results"):
        ops.linear(Foreign(A), W)


def test_arrays_of_jax_are_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    array = type("ArrayImpl", (Foreign,), {"__module__": "jaxlib._jax"})
    there: Any = ModuleType("jax")
    there.numpy = SimpleNamespace(from_dlpack=lambda x: array(memory_of(x, "x")))
    monkeypatch.setitem(sys.modules, "jax", there)
    y = ops.linear(array(A), array(W))
    assert type(y) is array
    np.testing.assert_allclose(y.x, A @ W.T, rtol=1e-5, atol=1e-5)
    with pytest.raises(tc.TilecError, match="out is read-only, as arrays of jax always are"):
        ops.linear(array(A), array(W), out=array(np.zeros((4, 5), np.float32)))
    with pytest.raises(tc.TilecError, match="writes y, which is read-only"):
        gpu.scaled(array(A[0]), array(A[1]), 2.0)
    tracer = type("Tracer", (), {"__module__": "jax", "__dlpack__": None})
    with pytest.raises(tc.TilecError, match=r"x is not handed out by jax: .*__dlpack_device__"):
        ops.linear(tracer(), W)


def test_jax() -> None:
    jnp: Any = pytest.importorskip("jax.numpy")
    for dtype in (jnp.float32, jnp.bfloat16):
        x, w = jnp.asarray(A, dtype), jnp.asarray(W, dtype)
        y = ops.linear(x, w)
        assert type(y) is type(x) and y.dtype == dtype
        np.testing.assert_allclose(np.asarray(y, np.float32), A @ W.T, rtol=5e-2, atol=5e-2)


# Of a GPU.


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubDriver]:
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    forget()
    with installed() as made:
        yield made
        callers._there.clear()
        forget()
        gc.collect()
        assert not made.memory, "all device memory is freed"


def forget() -> None:
    """Kernels keep what they loaded on the devices of another test."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("tilec.ops"):
            for kernel in filter(lambda x: isinstance(x, tc.Kernel), vars(module).values()):
                kernel.forget()


def moved(x: Any, there: Callable[[Array], Any]) -> Any:
    if isinstance(x, tuple | list):
        return type(x)(moved(each, there) for each in x)
    return there(x) if isinstance(x, np.ndarray) else x


def back(x: Any) -> Any:
    """Results of a GPU; nothing else may be among them."""
    if isinstance(x, tuple):
        return tuple(map(back, x))
    assert x is None or isinstance(x, tc.DeviceArray)
    return None if x is None else x.numpy()


class OnTheDevice:
    """tilec.ops, its arrays moved to a GPU."""

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            found = getattr(ops, name)(*moved(args, tc.to_device), **{
                word: moved(x, tc.to_device) for word, x in named.items()
            })  # fmt: skip
            return found if name in ("quantize", "fft_conv_spectrum") else back(found)

        return call


SAMPLE = ("linear u4 1", "attention_backward", "depthwise_conv")


@pytest.mark.parametrize("name", gpu.CASES)
def test_arrays_of_a_gpu(name: str, stub: StubDriver, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is copied: what comes from the host are our own constants, once."""
    if not full and name not in SAMPLE:
        pytest.skip("make check-all runs it")
    wanted = gpu.CASES[name]()
    monkeypatch.setattr(gpu, "ops", OnTheDevice())
    assert gpu.close(gpu.CASES[name](), wanted)


def test_blocks_that_share_tiles_find_zeroed_locks(stub: StubDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One set for a stream: each launch leaves them as it found them."""
    from tilec.ops import split, tiling

    chosen = tiling.linear_tiling
    module = sys.modules["tilec.ops.linear"]
    monkeypatch.setattr(module, "linear_tiling", lambda *problem: chosen(*problem)._replace(split=2))
    x, q = normal(5, 300, dtype=np.float16), ops.quantize(normal(70, 300), "u4", group_size=32)
    found = [ops.linear(tc.to_device(x), q).numpy() for _ in range(2)]
    np.testing.assert_allclose(found[0], x @ q.dequantize().T, rtol=2e-3, atol=5e-2)
    assert np.array_equal(*found)
    copies = [held.numpy() for _, held in callers._there.values() if held.dtype.name == "i32"]
    assert len(copies) == 1 and copies[0].size == split.LOCKS and not copies[0].any()


def library(name: str, **more: Any) -> Any:
    """A stand-in for torch or cupy: arrays that show what those show, and an allocator."""
    made: Any = ModuleType(name)

    class Tensor:
        requires_grad = False

        def __init__(self, held: tc.DeviceArray) -> None:
            self.held = held
            self.device = more["device"](held) if "device" in more else held.device

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, self.held.device

        def __dlpack__(self, **words: Any) -> Any:
            return self.held.__dlpack__(stream=-1)

    Tensor.__module__ = name
    made.float32, made.float16 = "float32", "float16"
    made.made = []

    def allocate(shape: tuple[int, ...], dtype: str, device: Any = None) -> Any:
        made.made.append((shape, dtype, device))
        return Tensor(tc.to_device(np.full(shape, 7, dtype)))

    made.empty, made.Tensor = allocate, Tensor
    made.from_dlpack = lambda x: Tensor(memory_of(x, "x"))
    made.cuda = SimpleNamespace(current_stream=lambda number: SimpleNamespace(cuda_stream=40))
    return made


class Device(nullcontext[None]):
    """cupy's: a context."""


@pytest.mark.parametrize("name", ["torch", "cupy", "jax"])
def test_results_are_of_the_library_and_its_allocator(
    name: str, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = library(name, **({"device": lambda held: Device()} if name == "cupy" else {}))
    there.numpy = there  # jax.numpy
    monkeypatch.setitem(sys.modules, name, there)
    x, w = (there.Tensor(tc.to_device(each)) for each in (A, W))
    y = ops.linear(x, w)
    assert isinstance(y, there.Tensor)
    np.testing.assert_allclose(y.held.numpy(), A @ W.T, rtol=1e-5, atol=1e-5)
    made = [] if name == "jax" else [((4, 5), "float32")]  # jax's cannot be written: memory of the driver's
    assert [each[:2] for each in there.made] == made
    assert {call[9] for call in stub.calls if call[0] == "cuLaunchKernel"} == {40 if name == "torch" else 1}
    if name == "jax":
        return
    out = there.Tensor(tc.to_device(np.zeros((4, 5), np.float32)))
    there.made.clear()
    stub.take()
    assert ops.linear(x, w, out=out) is out and there.made == []
    assert {c[0] for c in stub.take()} & {"cuMemAlloc", "cuMemcpyHtoD", "cuStreamSynchronize"} == set()


def test_arrays_that_lie_apart(stub: StubDriver) -> None:
    for x, message in (
        (W, "x lies on cuda:0, and weight on the host: arrays of one call lie in one place"),
        (tc.to_device(W, 1), "x lies on cuda:0, and weight on cuda:1"),
    ):
        with pytest.raises(tc.TilecError, match=message):
            ops.linear(tc.to_device(A), x)


def test_moves_on_a_gpu(stub: StubDriver) -> None:
    x = tc.to_device(normal(3, 4, 5))
    token = callers._caller.set(callers.Caller(x, None, x))
    try:
        with tc.target("cuda:0"):
            turned = x.transpose(2, 0, 1)
            np.testing.assert_array_equal(contiguous(turned, "x").numpy(), normal(3, 4, 5).transpose(2, 0, 1))
            assert contiguous(x, "x") is x and x.T.shape == (5, 4, 3) and len(x) == 3 and x.size == 60
            half = copied(x, tc.dtype("f16"))
            assert half.dtype == tc.dtype("f16")
            np.testing.assert_array_equal(half.numpy(), normal(3, 4, 5).astype(np.float16))
            np.testing.assert_array_equal(zeros((2, 3), F32).numpy(), np.zeros((2, 3)))
            y = empty((), F32)
            assign(y, x[1, 2, 3])
            assert y.numpy() == normal(3, 4, 5)[1, 2, 3]
            with written_flat(empty((2, 3, 4), F32).transpose(1, 0, 2), 2) as work:
                assert work.shape == (6, 4)
            with pytest.raises(tc.TilecError, match=r"has no view of shape \[60\]"):
                turned.reshape(60)
    finally:
        callers._caller.reset(token)
