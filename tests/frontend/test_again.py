"""Calls that were made before: whatever changed in between is seen."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import again
from tilec.ir import addresses
from tilec.specialise import agreed, array_type

SCALE = 2.0


@tc.kernel
def scaled(x: tc.Array, y: tc.Array, alpha: tc.f32 = 1, *, add=0.0, block=8):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    y.store(i * block, x.load(i * block, block).to(tc.f32) * alpha * SCALE + add)


@tc.kernel
def signed(y: tc.Array, alpha: tc.f32, *, beta=0.0):
    y.store(0, tc.full(1, 1.0, tc.f32) / alpha)
    y.store(1, 1.0 / tc.full(1, beta, tc.f32))


def fresh(kernel: tc.Kernel) -> tc.Kernel:
    return tc.kernel(kernel.definition.function)


def arrays(n: int = 20) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.arange(n, dtype=np.float32), np.zeros(n, np.float32)


def test_the_second_call_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y, 3.0)
    monkeypatch.setattr(kernel, "_launch", None)
    for _ in range(2):
        x += 1
        kernel(x, y, 3.0)
        np.testing.assert_array_equal(y, x * 6)


def test_compiled_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = arrays()
    done = scaled.compile(x, y, target="cpu")
    done(x, y, 3.0)
    monkeypatch.setattr(done, "prepared", None)
    done(x, y, 3.0)
    np.testing.assert_array_equal(y, x * 6)
    with pytest.raises(TypeError):  # not asked before: another address
        done(x.copy(), y, 3.0)


def test_arrays_that_changed_in_place() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    x.resize(300, refcheck=False)  # moves it
    y.resize(300, refcheck=False)
    x[:] = 7
    kernel(x, y)
    np.testing.assert_array_equal(y, 14)
    x.resize((300, 1), refcheck=False)  # of rank 2 now
    with pytest.raises(tc.TilecError, match="called with x f32"):
        kernel(x, y)


def test_a_type_that_changed_at_the_same_address() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    whole = np.arange(20, dtype=np.int32)
    x.view(np.int32)[:] = whole
    kernel(x.view(np.int32), y)
    np.testing.assert_array_equal(y, 2 * whole)


def test_views_at_the_same_address() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    kernel(x[:10], y[::2])
    np.testing.assert_array_equal(y[::2], 2 * x[:10])
    np.testing.assert_array_equal(y[1::2], 2 * x[1::2])


def test_what_may_not_be_written_any_more() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    y.flags.writeable = False
    with pytest.raises(tc.TilecError, match="writes y, which is read-only"):
        kernel(x, y)


def test_overlaps_are_found_however_often_others_were_called() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    for _ in range(2):
        kernel(x, y)
        with pytest.raises(tc.TilecError, match="overlap"):
            kernel(y[1:], y[:-1])


def test_scalars_and_constants_that_only_look_alike() -> None:
    kernel, y = fresh(signed), np.zeros(2, np.float32)
    with np.errstate(divide="ignore"):
        for alpha, beta in ((0.0, -0.0), (-0.0, 0.0), (0.0, 0.0), (0, -0.0)):
            kernel(y, alpha, beta=beta)
            np.testing.assert_array_equal(y, np.divide(np.float32(1), np.float32([alpha, beta])))
    kernel(y, np.float32(4), beta=2.0)
    kernel(y, np.float16(8), beta=2.0)
    np.testing.assert_array_equal(y, [0.125, 0.5])


def test_a_global_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    monkeypatch.setitem(scaled.definition.function.__globals__, "SCALE", 5.0)
    kernel(x, y)
    np.testing.assert_array_equal(y, 5 * x)


def test_targets_are_kept_apart() -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y)
    with tc.target("emulator:sm_80"):
        kernel(x, y)
        kernel(x, y)
    kernel.on("cpu")(x, y)
    assert {key[:2] for key in kernel._again} == {("cpu", False), ("cpu", True)}
    with pytest.raises(tc.TilecError, match="sm_80 is a target to compile for"):
        kernel.on("sm_80")


def test_a_grid_of_zero() -> None:
    kernel = fresh(scaled)
    for _ in range(2):
        kernel(np.zeros(0, np.float32), np.zeros(0, np.float32))


def test_no_array_is_kept_alive() -> None:
    import weakref

    class Watched(np.ndarray):  # type: ignore[type-arg]
        """Of numpy's own no weak reference tells."""

    kernel, (x, _) = fresh(scaled), arrays()
    owner = np.zeros(20, np.float32).view(Watched)
    gone = weakref.ref(owner)
    kernel(x, owner.view(np.ndarray))
    assert len(kernel._again) == 1
    del owner
    assert gone() is None


def test_packed_arrays() -> None:
    @tc.kernel
    def widened(x: tc.Array, y: tc.Array):
        y.store(0, x.load(0, 16).to(tc.i32))

    y = np.zeros(16, np.int32)
    for seed in range(3):
        codes = (np.arange(16) + seed) % 8
        x = tc.packed(tc.pack(codes, "u3"), "u3", (16,))
        for _ in range(2):
            widened(x, y)
            np.testing.assert_array_equal(y, codes)


def test_a_call_inside_a_kernel_is_still_refused() -> None:
    inner, (x, y) = fresh(scaled), arrays()
    inner(x, y)

    @tc.kernel
    def outer(a: tc.Array):
        inner(x, y)

    with pytest.raises(tc.TilecError, match="called inside a kernel"):
        outer(y)


def test_two_threads_on_one_kernel_each_with_its_own_arrays() -> None:
    kernel, wrong = fresh(scaled), []

    def work(seed: int) -> None:
        x, y = np.full(100, seed, np.float32), np.zeros(100, np.float32)
        with tc.target("cpu" if seed % 2 else "reference"):
            for i in range(1, 30 if seed % 2 else 4):
                kernel(x, y, i % 3 + 1.0, add=float(seed))
                wrong.extend([] if (y == 2 * seed * (i % 3 + 1) + seed).all() else [seed])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 7)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "REMEMBERED", 3)
    monkeypatch.setattr(addresses, "REMEMBERED", 2)
    kernel, (x, y) = fresh(scaled), arrays()
    for alpha in range(1, 8):
        kernel(x, y, alpha)
        np.testing.assert_array_equal(y, 2 * alpha * x)
    assert len(kernel._again) <= 3


@pytest.mark.parametrize("find", [addresses.read, addresses.asked])
def test_addresses(find: Any) -> None:
    whole = np.zeros((6, 7), np.int16)
    views = (whole, whole[3:], whole[::-1], whole.T, whole[:, 2], np.zeros(0), whole[4:4])
    for x in (*views, np.asarray(memoryview(b"abcd"))):
        assert find(x) == x.__array_interface__["data"][0]
    assert find(whole[1:]) - find(whole) == 14


def test_what_has_to_be_asked_is_never_remembered() -> None:
    assert again.seen((np.zeros(3), object()), {}) is None
    assert again.seen((np.ma.zeros(3),), {}) is None
    assert again.seen(([1, 2],), {}) is None
    assert again.seen((1,), {"a": {}}) is None
    assert again.seen((1,), {"a": (1, [2])}) is None
    assert again.seen((1, 2), {}) != again.seen((1,), {"a": 2})
    assert again.seen((1,), {}) != again.seen((True,), {})
    assert again.seen((), {"a": tc.f16}) != again.seen((), {"a": tc.f32})


def test_tensors_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    kernel = fresh(scaled)
    x, y = torch.arange(20.0), torch.zeros(20)
    kernel(x, y)
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "_launch", None)
        x += 1
        kernel(x, y)
    assert torch.equal(y, 2 * x)
    kernel(x[::2], y[:10])  # the same addresses, other strides
    assert torch.equal(y[:10], 2 * x[::2])
    x.requires_grad_(True)
    with pytest.raises(tc.TilecError, match="gradient"):
        kernel(x, y)
    mirrored = torch.view_as_complex(torch.ones(20, 2)).conj().imag
    assert again.seen((mirrored,), {}) is None and again.seen((torch.ones(3).to_sparse(),), {}) is None
    assert again.seen((torch.ones(3, device="meta"),), {}) is None
    assert again.seen((torch.ones(3),), {}) != again.seen((torch.ones(3, dtype=torch.float64),), {})


def test_tensors_of_a_gpu_are_told_apart_by_their_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        __module__ = "torch"
        requires_grad, is_cpu, is_cuda, shape, dtype, device = False, False, True, (4,), "f32", "cuda:0"

        def is_neg(self) -> bool:
            return False

        def data_ptr(self) -> int:
            return 4096

        def stride(self) -> tuple[int, ...]:
            return (1,)

    streams = iter([1, 2, 1])
    current = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=next(streams)))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=current))
    first, second, third = (again.seen((Tensor(),), {}) for _ in range(3))
    assert first == third != second


def test_launches_are_told_at_level_5(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, (x, y) = fresh(scaled), arrays()
    kernel(x, y, 3)
    assert not capsys.readouterr().out
    with tc.debug(5):
        kernel(x, y, 3)
    assert capsys.readouterr().out == "scaled on cpu: 3 blocks, x[20], y[20], alpha=np.float32(3.0)\n"
    done = scaled.compile(x, y, target="cpu")
    monkeypatch.setenv("TILEC_DEBUG", "5")
    for _ in range(2):
        done(x, y)
        assert "scaled on cpu: 3 blocks" in capsys.readouterr().out


def test_types_of_arrays_agree_already() -> None:
    """Each has names of its own, so that calls need not bring them together."""
    whole = np.zeros((6, 4, 10), np.float32)
    views = (whole, whole[::2], whole[:, :, 3], whole.transpose(2, 0, 1), whole[:, :1], whole.reshape(-1))
    packed = tc.packed(tc.pack(np.zeros(24, np.uint8), "u3"), "u3", (4, 6))
    types = [array_type(x, f"x{i}") for i, x in enumerate((*views, packed))]
    assert agreed(types) == types
