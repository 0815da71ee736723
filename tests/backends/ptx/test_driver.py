"""The driver's calls, in their order and with their bytes, against a driver made for tests; its names against
cuda-python's where that is installed. Not run on hardware."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.ptx.stub import StubDriver, installed
from tilec.backends.ptx import driver
from tilec.backends.ptx.arguments import Parameters
from tilec.ir.dtype import ALL, dtype
from tilec.ir.errors import TilecError
from tilec.ir.signature import Box, Slot
from tilec.ir.target import target

ROOT = Path(__file__).parents[3]
PTX = """.version 8.0
.target sm_80
.address_size 64
.visible .entry fill(.param .u64 .ptr .global p, .param .u32 n, .param .u64 s, .param .u8 b)
{
  .reg .b64 %rd<3>; .reg .b32 %r<2>;
  ld.param.u64 %rd1, [p]; ld.param.u32 %r1, [n];
  cvta.to.global.u64 %rd2, %rd1;
  atom.global.exch.b32 %r1, [%rd2], %r1;
  ret;
}
"""
SLOTS = (
    Slot("pointer", 0),
    Slot("extent", 0, 0, dtype("i32")),
    Slot("stride", 0),
    Slot("scalar", 1, 0, dtype("u8")),
)


@pytest.fixture
def stub() -> Iterator[StubDriver]:
    with installed((9, 0)) as made:
        yield made


def test_a_device_is_opened_once(stub: StubDriver) -> None:
    gpu = driver.device(1)
    assert gpu is driver.device(1) and gpu.target.name == "sm_90a" and repr(gpu) == "<cuda:1, sm_90a>"
    assert stub.take() == [
        ("cuDeviceGetCount",),
        ("cuDeviceGet", 1),
        ("cuDeviceGetAttribute", 75, 1),
        ("cuDeviceGetAttribute", 76, 1),
        ("cuDevicePrimaryCtxRetain", 1),
    ]
    with pytest.raises(TilecError, match=r"there is no cuda:2: this machine has 2 GPUs"):
        driver.device(2)


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((12, 0), "sm_120")])
def test_the_capability_picks_the_target(capability: tuple[int, int], name: str) -> None:
    with installed(capability):
        assert driver.device(0).target.name == name


def test_what_a_board_can_do_is_counted(stub: StubDriver) -> None:
    rates, like = driver.device(0).rates, target("sm_90a").rates
    assert like is not None and (rates.board, rates.target) == ("NVIDIA Stub", "sm_90a")
    assert (rates.sms, rates.clock, rates.dram) == (100, 1.5, 1280)
    f16, peak = rates.tensor_tflops("f16"), like.tensor_tflops("f16")
    assert f16 and peak and f16 == pytest.approx(peak * 100 * 1.5 / (132 * 1.83))


def test_a_gpu_that_is_too_old() -> None:
    with installed((7, 5)), pytest.raises(TilecError, match=r"compute capability 7\.5: tilec needs 8\.0"):
        driver.device(0)


def test_a_launch_call_by_call(stub: StubDriver) -> None:
    gpu = driver.device(0)
    at = gpu.allocate(8)
    stub.take()
    kernel = gpu.load("fill", (PTX.encode(),), 1000, Parameters(SLOTS))
    loading = stub.take()
    assert [name for name, *_ in loading] == [
        "cuCtxGetCurrent",
        "cuCtxPushCurrent",
        "cuModuleLoadDataEx",
        "cuModuleGetFunction",
        "cuCtxPopCurrent",
    ]
    assert loading[2][1:4] == (PTX.encode() + b"\0", 2, (5, 6)) and loading[3] == (
        "cuModuleGetFunction",
        0,
        b"fill",
    )
    kernel.launch(3, 1, 77, (at, 5, -2, b"\x09"))
    calls = stub.take()
    assert [name for name, *_ in calls] == [
        "cuCtxGetCurrent",
        "cuCtxPushCurrent",
        "cuLaunchKernel",
        "cuCtxPopCurrent",
    ]
    assert calls[1] == ("cuCtxPushCurrent", 0xC0)
    assert calls[2][:-1] == ("cuLaunchKernel", (0, "fill"), 3, 1, 1, 1, 1, 1, 1000, 77, 0)
    assert stub.launches == [("fill", 3, 1, 1000, struct.pack("<Qi4xqB", at, 5, -2, 9))]


def test_a_context_that_is_current_stays(stub: StubDriver) -> None:
    gpu = driver.device(0)
    kernel = gpu.load("fill", (PTX.encode(),), 0, Parameters(SLOTS))
    at = gpu.allocate(4)
    stub.contexts.append(0xC0)  # as torch leaves it
    stub.take()
    kernel.launch(1, 1, driver.LEGACY, (at, 5, 1, b"\0"))
    assert [name for name, *_ in stub.take()] == ["cuCtxGetCurrent", "cuLaunchKernel"]
    assert stub.contexts == [0, 0xC0]


def test_a_context_is_left_after_an_error(stub: StubDriver) -> None:
    gpu = driver.device(0)
    stub.fail["cuMemAlloc"] = 2
    with pytest.raises(TilecError, match=r"failed in cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY: .*; free arrays"):
        gpu.allocate(4)
    assert stub.contexts == [0]


def test_a_forked_process(stub: StubDriver) -> None:
    stub.fail["cuCtxGetCurrent"] = 3
    with pytest.raises(TilecError, match=r"CUDA_ERROR_NOT_INITIALIZED: .*; a forked process .* by spawn"):
        driver.device(0).allocate(4)


def test_kernels_are_loaded_once_per_device(stub: StubDriver) -> None:
    images, parameters = (PTX.encode(),), Parameters(SLOTS)
    first = driver.device(0).load("fill", images, 0, parameters)
    assert driver.device(0).load("fill", images, 0, parameters) is first
    assert driver.device(1).load("fill", images, 0, parameters) is not first
    assert sum(name == "cuModuleLoadDataEx" for name, *_ in stub.calls) == 2


@pytest.mark.parametrize(("nbytes", "asked"), [(48 << 10, False), ((48 << 10) + 1, True)])
def test_much_shared_memory_is_asked_for(stub: StubDriver, nbytes: int, asked: bool) -> None:
    driver.device(0).load("fill", (PTX.encode(),), nbytes, Parameters(SLOTS))
    assert (("cuFuncSetAttribute", (0, "fill"), 8, nbytes) in stub.calls) == asked


def test_ptx_where_the_driver_refuses_the_cubin(stub: StubDriver) -> None:
    gpu, images = driver.device(0), (b"\x7fELF of another GPU", PTX.encode())
    stub.cubins = False
    kernel = gpu.load("fill", images, 0, Parameters(SLOTS))
    assert [call[1][:4] for call in stub.take() if call[0] == "cuModuleLoadDataEx"] == [b"\x7fELF", b".ver"]
    kernel.launch(1, 1, 1, (at := gpu.allocate(4), 6, 1, b"\0"))
    assert stub.memory[at].view(np.int32)[0] == 6


def test_the_log_of_ptx_that_does_not_load(stub: StubDriver) -> None:
    gpu = driver.device(0)
    stub.fail["cuModuleLoadDataEx"] = 218
    with pytest.raises(TilecError, match="CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed"):
        gpu.load("fill", (b"nonsense",), 0, Parameters(()))
    stub.fail["cuModuleLoadDataEx"] = 222
    with pytest.raises(TilecError, match=r"toolchain.; update the driver, or pip install 'tilec\[ptxas\]'"):
        gpu.load("fill", (b"newer",), 0, Parameters(()))


def test_too_many_blocks(stub: StubDriver) -> None:
    kernel = driver.device(0).load("fill", (PTX.encode(),), 0, Parameters(()))
    with pytest.raises(TilecError, match="fill asks for 2147483648 blocks, a GPU takes at most 2147483647"):
        kernel.launch(2**31, 1, 1, ())


def test_copies_and_streams(stub: StubDriver) -> None:
    gpu, host, back = driver.device(0), np.arange(8, dtype=np.int32), np.zeros(8, np.int32)
    at = gpu.allocate(host.nbytes)
    gpu.copy_in(at, host.ctypes.data, host.nbytes)
    gpu.copy_out(back.ctypes.data, at, host.nbytes)
    np.testing.assert_array_equal(back, host)
    gpu.copy_in(at, 0, 0)  # nothing to do
    gpu.free(at)
    assert not stub.memory
    stub.take()
    gpu.wait(7, 8)
    gpu.synchronise(7)
    assert [call for call in stub.take() if "Ctx" not in call[0]] == [
        ("cuEventCreate", 2),
        ("cuEventRecord", 0xE0, 8),
        ("cuStreamWaitEvent", 7, 0xE0, 0),
        ("cuEventDestroy", 0xE0),
        ("cuStreamSynchronize", 7),
    ]


def test_parameters_lie_at_multiples_of_their_sizes() -> None:
    """As C lays out a struct of the same members."""
    kinds = {"Q": ctypes.c_uint64, "i": ctypes.c_int32, "q": ctypes.c_int64}
    for each in ALL:
        slots = (*SLOTS[:2], Slot("scalar", 1, 0, each), Slot("stride", 0), Slot("scalar", 2, 0, each))
        size = each.storage.itemsize
        scalar = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}[size]
        members = [("p", kinds["Q"]), ("n", kinds["i"]), ("x", scalar), ("s", kinds["q"]), ("y", scalar)]
        struct_ = type("Packed", (ctypes.Structure,), {"_fields_": members})
        raw = bytes(range(1, size + 1))
        found = Parameters(slots).packer.pack(3, -4, raw, -5, raw)
        want = struct_(3, -4, int.from_bytes(raw, "little"), -5, int.from_bytes(raw, "little"))
        assert found == bytes(want)[: len(found)]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    driver.api.cache_clear()
    with pytest.raises(TilecError, match=r"needs cuda-python, 12\.6\.1 or newer: pip install -U cuda"):
        driver.api()


class _Broken:
    """cuda.bindings where there is no driver, or none that works."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.stub = StubDriver()

    def cuInit(self, flags: int) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return (self.outcome,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stub, name)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (RuntimeError("no libcuda"), r"needs NVIDIA's driver, and it cannot be loaded: no libcuda; "),
        (100, r"failed in cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable .*; no GPU is visible"),
    ],
)
def test_without_a_driver(outcome: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    package = ModuleType("cuda.bindings")
    package.driver = _Broken(outcome)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    driver.api.cache_clear()
    with pytest.raises(TilecError, match=message):
        driver.api()


@pytest.mark.parametrize(
    ("rows", "version", "cleared"), [(1023, 13000, True), (1025, 13000, False), (9, 13040, False)]
)
def test_maps_of_small_arrays(
    stub: StubDriver, monkeypatch: pytest.MonkeyPatch, rows: int, version: int, cleared: bool
) -> None:
    """NVIDIA's release notes (595.71) have bit 85 of maps of arrays of less than 128 KiB cleared."""
    monkeypatch.setattr(StubDriver, "cuDriverGetVersion", lambda self: version)
    encoded = driver.tensor_map(
        stub.cuMemAlloc(128 * rows)[1], 2, (rows, 64), (64, 1), Box((1, 0), (64, 8), 128, 2)
    )
    assert encoded == b"\0" + b"\xff" * 9 + bytes([0xDF if cleared else 0xFF]) + b"\xff" * 117


def test_a_map_that_the_driver_refuses(stub: StubDriver) -> None:
    stub.fail["cuTensorMapEncodeTiled"] = 2
    with pytest.raises(TilecError, match="failed in cuTensorMapEncodeTiled: CUDA_ERROR_OUT_OF_MEMORY"):
        driver.tensor_map(256, 2, (8, 64), (64, 1), Box((1, 0), (64, 8), 128, 2))


def test_names_are_those_of_cuda_python() -> None:
    """Every function and constant that is used."""
    real = pytest.importorskip("cuda.bindings.driver")
    import re
    from pathlib import Path

    source = Path(driver.__file__).read_text()
    functions = set(re.findall(r'call\(\s*"(cu\w+)"', source)) | set(re.findall(r"driver\.(cu\w+)", source))
    assert len(functions) > 15
    assert not [name for name in functions if not hasattr(real, name)]
    for kind, name in re.findall(r"(CU[a-z]\w+)\.(CU_\w+)", source):
        assert hasattr(getattr(real, kind), name)
    assert int(real.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) == 8


def test_through_cuda_python() -> None:
    """The tests of launches once more, their driver behind the binding: what we pass it has to convert."""
    pytest.importorskip("cuda.bindings.driver")
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("needs a C compiler, and Linux")
    here, on_gpu = "tests/backends/ptx/", "::test_on_a_gpu_"
    reports = "words_come_when_it_is_waited_for", "an_assertion_is_told_instead_of_its_trap"
    chosen = (
        f"{here}test_driver.py", "tests/test_device.py", f"{here}test_bulk.py{on_gpu}the_driver_encodes_maps",
        *(f"{here}test_reports.py{on_gpu}{name}" for name in reports),
    )  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.backends.ptx.bridge", *chosen]
    done = subprocess.run([*command, "-k", "not cuda_python"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
