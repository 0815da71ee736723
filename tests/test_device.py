"""Arrays of GPUs: in from other libraries and out again, and kernels on them, on a driver made for tests."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import StubDriver, installed
from tilec import dlpack
from tilec.backends.ptx import assemble
from tilec.device import memory_of

Array = np.ndarray[Any, Any]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubDriver]:
    """Without an assembler: PTX reaches the driver, which emulates it."""
    monkeypatch.setattr(assemble, "find", lambda tool: None)
    forget()
    with installed() as made:
        yield made
        gc.collect()
        assert not made.memory, "all device memory is freed"


@tc.kernel
def scaled(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=64):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    y.store(i * block, x.load(i * block, block) * alpha.to(y.dtype))


@tc.kernel
def doubled(x: tc.Array, y: tc.Array):
    y.store(0, x.load(0, 8) + x.load(0, 8))


def forget() -> None:
    """Kernels keep what they loaded on the devices of an earlier test."""
    for kernel in (scaled, doubled, filled):
        kernel.forget()


class Foreign:
    """Another library's array: it shows what it is told to show of a DeviceArray."""

    def __init__(self, held: tc.DeviceArray, *names: str, stream: int = 1) -> None:
        self.held, self.names, self.stream, self.asked = held, names, stream, []
        self.device = SimpleNamespace(id=held.device)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("names", ()):
            raise AttributeError(name)
        if name == "__cuda_array_interface__":
            return {**self.held.__cuda_array_interface__, "stream": self.stream}
        return getattr(self, f"own{name}")

    def own__dlpack_device__(self) -> tuple[int, int]:
        return 2, self.held.device

    def own__dlpack__(self, **words: Any) -> Any:
        if "max_version" in words:
            raise TypeError("an older library")
        self.asked.append(words)
        return self.held.__dlpack__(**words)


def launches(stub: StubDriver) -> list[tuple[Any, ...]]:
    return [
        call for call in stub.calls if call[0] in ("cuLaunchKernel", "cuEventRecord", "cuStreamWaitEvent")
    ]


def test_there_and_back(stub: StubDriver) -> None:
    for dtype in (np.float32, np.int8, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        x = np.arange(24).reshape(4, 6).astype(dtype)
        there = tc.to_device(x.T)
        np.testing.assert_array_equal(there.numpy().astype(np.float32), x.T.astype(np.float32))
        assert (
            there.shape == (6, 4) and there.strides == (4, 1) and there.ndim == 2 and there.nbytes == x.nbytes
        )
        assert tc.to_device(there) is there
    swapped = np.arange(3, dtype=">f4")
    np.testing.assert_array_equal(tc.to_device(swapped).numpy(), swapped)
    np.testing.assert_array_equal(there[::-1, None, 2:0:-1].numpy(), x.T[::-1, None, 2:0:-1])
    assert repr(tc.to_device(np.ones(3, np.float16))) == "DeviceArray(f16[3], cuda:0)"
    assert tc.to_device(np.ones((0, 4), np.float32)).numpy().shape == (0, 4)
    with tc.target("cuda:1"):
        assert tc.to_device(np.ones(3)).device == 1
    with pytest.raises(tc.TilecError, match=r"tc\.to_device takes an array, found list"):
        tc.to_device([1, 2])


def test_a_kernel_on_arrays_of_the_device(stub: StubDriver) -> None:
    x = np.arange(200, dtype=np.float32)
    there, out = tc.to_device(x), tc.to_device(np.zeros_like(x))
    stub.take()
    scaled(there, out, 3)
    name, blocks, threads, shared, packed = stub.launches[0]
    assert (name, blocks, threads, shared) == ("scaled", 4, 128, 0)
    assert [c[0] for c in stub.take() if "Copy" in c[0] or "Memcpy" in c[0]] == []
    assert packed[:8] == there.address.to_bytes(8, "little") and packed[-4:] == np.float32(3).tobytes()
    np.testing.assert_array_equal(out.numpy(), 3 * x)
    scaled.on("cuda:0")(out, there, 0.5)
    scaled.compile(there, out, 0, target="sm_80")(there, out, 2)
    scaled.compile(there, out, 0, target="cuda:0")(there, out, 2)
    np.testing.assert_array_equal(out.numpy(), 3 * x)


def test_numpy_arrays_are_copied_and_written_ones_copied_back(stub: StubDriver) -> None:
    x, both = np.arange(100, dtype=np.float32), np.zeros(200, np.float32)
    with tc.target("cuda:0"):
        scaled(x, both[::2], 2)
        np.testing.assert_array_equal(both.reshape(100, 2), np.stack([2 * x, 0 * x], 1))
        scaled(both[1::2], both[::2], 2, block=32)  # interleaved: one copy of both
        np.testing.assert_array_equal(both, 0)
    copies = [(c[0], c[3]) for c in stub.calls if c[0].startswith("cuMemcpy")]
    assert sorted(copies[:2]) == [("cuMemcpyHtoD", 400), ("cuMemcpyHtoD", 796)]  # in the order of addresses
    assert copies[2:] == [
        ("cuMemcpyDtoH", 796),
        ("cuMemcpyHtoD", 800),
        ("cuMemcpyDtoH", 796),
    ]


def test_memory_is_freed_after_an_error(stub: StubDriver) -> None:
    stub.fail["cuLaunchKernel"] = 700
    with (
        tc.target("cuda:0"),
        pytest.raises(tc.TilecError, match=r"cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS.*again"),
    ):
        scaled(np.ones(4, np.float32), np.ones(4, np.float32), 2)
    stub.fail.clear()
    assert not stub.memory


def test_packed_arrays(stub: StubDriver) -> None:
    @tc.kernel
    def widened(x: tc.Array, y: tc.Array):
        y.store(0, x.load(0, 16).to(tc.i32))

    codes = np.arange(16) % 8
    x, y = tc.packed(tc.pack(codes, "u3"), "u3", (16,)), np.zeros(16, np.int32)
    with tc.target("cuda:0"):
        widened(x, y)
    np.testing.assert_array_equal(y, codes)
    out = tc.to_device(np.zeros(16, np.int32))
    widened(tc.to_device(x), out)
    np.testing.assert_array_equal(out.numpy(), codes)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "u8", "bool", "f8e4m3", "f8e5m2", "e8m0", "f64"])
def test_dlpack_both_ways(stub: StubDriver, dtype: str) -> None:
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    made = tc.to_device(codes.astype(tc.dtype(dtype).storage))
    from dataclasses import replace

    held = replace(made, dtype=tc.dtype(dtype))
    again = memory_of(Foreign(held, "__dlpack__", "__dlpack_device__"), "x")
    assert isinstance(again, tc.DeviceArray)
    assert (again.dtype, again.shape, again.strides, again.address) == (
        held.dtype,
        (2, 3),
        (3, 1),
        held.address,
    )


def test_capsules_let_go(stub: StubDriver) -> None:
    """One that nobody took, and one whose owner calls its deleter as consumers do."""
    held = tc.to_device(np.ones(4, np.float32))
    before = len(dlpack._alive)
    capsule = held.__dlpack__(stream=-1)
    assert len(dlpack._alive) == before + 1
    managed = dlpack._Managed.from_address(dlpack._pointer(capsule, b"dltensor"))
    del capsule
    assert len(dlpack._alive) == before
    capsule = held.__dlpack__(stream=-1)
    managed = dlpack._Managed.from_address(at := dlpack._pointer(capsule, b"dltensor"))
    managed.deleter(at)
    assert len(dlpack._alive) == before
    dlpack._alive[at] = managed  # as it was, for the capsule's own end
    del capsule
    assert len(dlpack._alive) == before


def test_a_consumer_on_another_stream_waits(stub: StubDriver) -> None:
    held = tc.to_device(np.ones(4, np.float32))
    stub.take()
    for stream, wanted in ((-1, 0), (1, 0), (None, 0), (55, 1)):
        held.__dlpack__(stream=stream)
        assert [c for c in stub.take() if c[0] == "cuStreamWaitEvent"] == [
            ("cuStreamWaitEvent", 55, 0xE0, 0)
        ][:wanted]
    with pytest.raises(BufferError, match="neither copied nor moved"):
        held.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="neither copied nor moved"):
        held.__dlpack__(dl_device=(1, 0))


def test_streams_of_the_caller(stub: StubDriver) -> None:
    """By __cuda_array_interface__ of version 3; the first array's stream runs the kernel, others wait."""
    x, y = tc.to_device(np.ones(8, np.float32)), tc.to_device(np.zeros(8, np.float32))
    scaled(
        Foreign(x, "__cuda_array_interface__", stream=7), Foreign(y, "__cuda_array_interface__", stream=7), 2
    )
    assert [(c[0], c[9]) for c in launches(stub)] == [("cuLaunchKernel", 7)]
    stub.take()
    scaled(
        Foreign(x, "__cuda_array_interface__", stream=7), Foreign(y, "__cuda_array_interface__", stream=9), 2
    )
    assert [(c[0], c[9] if len(c) > 9 else c[1:]) for c in launches(stub)] == [
        ("cuEventRecord", (0xE0, 9)),
        ("cuStreamWaitEvent", (7, 0xE0, 0)),
        ("cuLaunchKernel", 7),
        ("cuEventRecord", (0xE0, 7)),
        ("cuStreamWaitEvent", (9, 0xE0, 0)),
    ]


def test_libraries_of_dlpack_alone_are_told_our_stream(stub: StubDriver) -> None:
    x, y = (
        Foreign(tc.to_device(np.ones(8, np.float32)), "__dlpack__", "__dlpack_device__") for _ in range(2)
    )
    doubled(x, y)
    assert x.asked == [{"stream": 1}]
    np.testing.assert_array_equal(y.held.numpy(), 2)


def test_torch_runs_on_its_current_stream(stub: StubDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = ModuleType("torch")
    torch.cuda = SimpleNamespace(current_stream=lambda number: SimpleNamespace(cuda_stream=40 + number))
    monkeypatch.setitem(sys.modules, "torch", torch)
    tensor = type("Tensor", (Foreign,), {"__module__": "torch"})
    x, y = (
        tensor(
            tc.to_device(np.ones(8, np.float32)),
            "__dlpack__",
            "__dlpack_device__",
            "__cuda_array_interface__",
        )
        for _ in range(2)
    )
    doubled(x, y)
    assert [c[9] for c in launches(stub)] == [40] and x.asked == [{"stream": -1}]


def test_arrays_of_the_host_by_dlpack() -> None:
    class Host:
        def __init__(self, x: Array) -> None:
            self.x = x

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **words: Any) -> Any:
            return self.x.__dlpack__(**words)

    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    doubled.meaning(Host(x), Host(y))
    np.testing.assert_array_equal(y, 2 * x)
    held = memory_of(Host(x[::2]), "x")
    assert isinstance(held, np.ndarray) and held.strides == (8,) and np.shares_memory(held, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(tc.TilecError, match="doubled writes y, which is read-only"):
        doubled.meaning(Host(x), Host(frozen))


class Refusing:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **words: Any) -> Any:
        raise BufferError("it requires a gradient, use detach()")


class Elsewhere(Refusing):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 10, 0


def test_what_is_refused(stub: StubDriver) -> None:
    x, y = tc.to_device(np.ones(8, np.float32)), tc.to_device(np.zeros(8, np.float32))
    other, host = tc.to_device(np.ones(8, np.float32), 1), np.ones(8, np.float32)
    for call, message in (
        (lambda: doubled(x, host), r"x lies on cuda:0, and y on the host: pass tc.to_device(y)"),
        (lambda: doubled(host, y), r"y lies on cuda:0, and x on the host: pass tc.to_device(x)"),
        (lambda: doubled(x, other), "x lies on cuda:0, and y on cuda:1: arrays of one call lie on one GPU"),
        (lambda: doubled.meaning(x, y), "x lies on cuda:0, and reference runs kernels on arrays of the host"),
        (lambda: doubled.on("cuda:1")(x, y), "x lies on cuda:0, and cuda:1 runs kernels on arrays"),
        (lambda: doubled(x, x), "writes y, whose bytes overlap those of x"),
        (lambda: doubled.compile(x, y, target="sm_90")(x, y), 'for sm_90, and cuda:0 runs sm_80: '),
        (lambda: doubled.compile(x, y, target="sm_80")(host, host.copy()),
         'it with tc.target("cuda:0") or tc'),
        (lambda: doubled(Refusing(), y), "x is not handed out by tests.test_device: it requires a gradient"),
        (lambda: doubled(Elsewhere(), y), "x lies on a device that is neither the host nor an NVIDIA GPU"),
        (lambda: x[[0, 1]], "DeviceArray(f32[8], cuda:0) has views alone, by integers, slices, None and"),
        (lambda: x[np.ones(8, bool)], "has views alone"),
        (lambda: x[True], "has views alone"),
        (lambda: np.asarray(x), "DeviceArray(f32[8], cuda:0) lies on a GPU: .numpy() copies it"),
        (lambda: tc.to_device(host, -1), "there is no cuda:-1: this machine has 2 GPUs"),
        (lambda: tc.to_device(np.ones(3, np.complex64)), "expected a dtype, found dtype('complex64')"),
    ):  # fmt: skip
        with pytest.raises(tc.TilecError, match=re.escape(message)):
            call()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"typestr": ">f4"}, "y is byte-swapped, masked, or has strides"),
        ({"mask": 1}, "y is byte-swapped, masked"),
        (
            {"strides": (6,)},
            r"strides \(in bytes: \(6,\)\) that are no multiples of its elements' 4: pass a copy",
        ),
    ],
)
def test_cuda_array_interfaces_that_are_refused(stub: StubDriver, told: dict[str, Any], message: str) -> None:
    x = tc.to_device(np.ones(8, np.float32))
    shown = SimpleNamespace(__cuda_array_interface__={**x.__cuda_array_interface__, **told})
    with pytest.raises(tc.TilecError, match=message):
        memory_of(shown, "y")
    with pytest.raises(tc.TilecError, match="y is not handed out by types: 'data'"):
        memory_of(SimpleNamespace(__cuda_array_interface__={"shape": (8,)}), "y")


def test_elements_that_fit_no_tile() -> None:
    class Complex:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **words: Any) -> Any:
            return np.ones(3, np.complex64).__dlpack__(**words)

    with pytest.raises(tc.TilecError, match=r"elements \(DLPack's type 5, 64 bits, 1 lanes\) fit no tile"):
        memory_of(Complex(), "x")
    with pytest.raises(tc.TilecError, match="DLPack has no u4"):
        dlpack._code(tc.u4)


def test_types_without_a_cuda_array_interface(stub: StubDriver) -> None:
    with pytest.raises(AttributeError, match="__cuda_array_interface__ has no bf16: DLPack has"):
        tc.to_device(np.ones(3, ml_dtypes.bfloat16)).__cuda_array_interface__  # noqa: B018
    shown = tc.to_device(np.ones((2, 3), np.float16)).__cuda_array_interface__
    assert (shown["shape"], shown["strides"], shown["typestr"], shown["stream"]) == ((2, 3), (6, 2), "<f2", 1)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilec.backends.ptx import driver

    def missing() -> Any:
        raise tc.TilecError("running on a GPU needs cuda-python")

    monkeypatch.setattr(driver, "api", missing)
    driver.device.cache_clear()
    with pytest.raises(tc.TilecError, match="running on a GPU needs cuda-python"), tc.target("cuda:0"):
        doubled(np.ones(8, np.float32), np.ones(8, np.float32))


def test_the_cubin_comes_first_where_there_is_an_assembler(monkeypatch: pytest.MonkeyPatch) -> None:
    if assemble.find("ptxas") is None:
        pytest.skip("needs ptxas")
    forget()
    with installed() as stub:
        x, y = tc.to_device(np.ones(8, np.float32)), tc.to_device(np.zeros(8, np.float32))
        doubled(x, y)
        doubled(x, y)
        images = [c[1][:4] for c in stub.calls if c[0] == "cuModuleLoadDataEx"]
        assert images == [b"\x7fELF"] and len(stub.launches) == 2
        del x, y
        gc.collect()


@tc.kernel
def filled(y: tc.Array, a: tc.bf16, b: tc.u3, c: tc.f8e4m3, d: tc.bool, e: tc.i64):
    y.store(0, a.to(tc.f32) + b.to(tc.f32) + c.to(tc.f32) + tc.where(d, 1000.0, 0.0) + e.to(tc.f32))


def test_scalars_of_every_width(stub: StubDriver) -> None:
    y = np.zeros(1, np.float32)
    filled.on("cuda:0")(y, 0.5, 7, -2.0, True, 4096)
    assert y[0] == 0.5 + 7 - 2 + 1000 + 4096
