"""Calls of operators that look like earlier ones: the same as those that decide everything anew."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import StubDriver
from tests.gpu import test_on_a_gpu as gpu
from tests.ops.test_callers import stub as stub
from tilec import again, ops, tape
from tilec.device import span
from tilec.ops import arrays, play
from tilec.ops.fft_conv_call import FftSpectrum
from tilec.ops.play import Play

Array = np.ndarray[Any, Any]
UNPLAYED = {"quantize", "sparsify", "prune_2_4"}  # made once, not call after call


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    again.forget_plays()
    yield
    again.forget_plays()


def plays() -> list[Play]:
    return [x for x in again.plays.values() if isinstance(x, Play)]


def called(op: Any, *args: Any, **named: Any) -> Any:
    """The third call, which is played, or raises as the others did."""
    for _ in range(2):
        op(*args, **named)
    count = len(plays())
    assert count, "the second call was noted"
    return op(*args, **named)


def plain(op: Any, *args: Any, **named: Any) -> Any:
    """The first call."""
    again.forget_plays()
    return op(*args, **named)


def mapped(change: Callable[[Array], Any], x: Any) -> Any:
    if isinstance(x, tuple | list):
        parts = [mapped(change, each) for each in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return change(x) if isinstance(x, np.ndarray) else x


def flat(x: Any) -> list[Array]:
    if isinstance(x, FftSpectrum):
        return flat((x.values, x.norms))
    return [y for each in x for y in flat(each)] if isinstance(x, tuple | list) else [] if x is None else [x]


def rolled(x: Array, step: int) -> Array:
    """Other elements, as far apart in memory."""
    low, high = span(x)
    whole = np.zeros(high - low, np.uint8)
    y = np.ndarray(x.shape, x.dtype, whole, 0, x.strides)
    y[...] = np.roll(x, step)
    return y


def lasting(make: Callable[..., Any]) -> Callable[..., Any]:
    """New arrays with all bits set: NaNs, where nothing is written."""

    def made(*args: Any, **named: Any) -> Any:
        x = make(*args, **named)
        x.reshape(-1).view(np.uint8)[:] = 255
        return x

    return made


class Twice:
    """tilec.ops, each call played on its arrays after others like them, against the call that is not."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        op = getattr(ops, name)

        def call(*args: Any, **named: Any) -> Any:
            if name in UNPLAYED:
                return op(*args, **named)
            others = [mapped(lambda x, step=step: rolled(x, step), (args, named)) for step in (1, 2)]
            held = mapped(np.copy, (args, named))
            wanted = plain(op, *held[0], **held[1])
            again.forget_plays()
            for rest, words in others:
                op(*rest, **words)
            assert plays(), f"{name} was noted"
            before = dict(again.plays)
            found = op(*args, **named)
            assert before == again.plays, f"{name} was played"
            for one, other in zip(flat(found), flat(wanted), strict=True):
                np.testing.assert_array_equal(one, other, strict=True)
            self.names.add(name)
            return found

        return call


SAMPLE = (
    "linear u4 1", "linear u4 33 int8", "quantize_activation", "causal_conv1d", "depthwise_conv_backward",
    "inception_depthwise_conv", "fft_conv",
)  # fmt: skip


def test_every_operator(monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    """Bit by bit, with NaNs in whatever is not written."""
    twice = Twice()
    monkeypatch.setattr(gpu, "ops", twice)
    monkeypatch.setattr(arrays, "new_host_array", lasting(arrays.new_host_array))
    for name in gpu.CASES if full else SAMPLE:
        gpu.CASES[name]()
    if not full:
        return
    known = {name for name, x in vars(ops).items() if hasattr(x, "__wrapped__") and name not in UNPLAYED}
    assert twice.names >= known - {"merge_reparam", "no_copies"}


def test_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch")
    x, w = torch.randn(2, 4, 9, 9), torch.randn(4, 1, 3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        a, b = x.to(dtype), w.to(dtype)
        wanted = plain(ops.depthwise_conv, a, b, padding=1)
        found = called(ops.depthwise_conv, a, b, padding=1)
        assert found.dtype == dtype and torch.equal(found, wanted)
        last = a.to(memory_format=torch.channels_last)
        y = called(ops.depthwise_conv, last, b, padding=1)
        assert torch.equal(y, wanted) and y.stride() == plain(ops.depthwise_conv, last, b, padding=1).stride()
    out = torch.empty_like(wanted)
    assert called(ops.depthwise_conv, a, b, padding=1, out=out) is out and torch.equal(out, wanted)
    parameter = torch.nn.Parameter(b)
    with torch.no_grad():
        assert torch.equal(called(ops.depthwise_conv, a, parameter, padding=1), wanted)
    with pytest.raises(tc.TilecError, match="weight requires a gradient"):
        ops.depthwise_conv(a, parameter, padding=1)


def test_what_lies_elsewhere_and_holds_something_else() -> None:
    q = ops.quantize(normal(24, 64), "u4", group_size=32)
    for seed in range(4):
        x, bias = normal(3, 64, seed=seed), normal(24, seed=seed + 9)
        y = ops.linear(x, q, bias)
        np.testing.assert_allclose(y, x @ q.dequantize().T + bias, rtol=1e-4, atol=1e-4)
        x *= 2
        bias[:] = 0
        np.testing.assert_allclose(ops.linear(x, q, bias), x @ q.dequantize().T, rtol=1e-4, atol=1e-4)
    assert len(plays()) == 1


def test_results_are_new_arrays() -> None:
    x, w = normal(2, 8), normal(4, 8)
    found = [ops.linear(x, w) for _ in range(4)]
    assert len({y.ctypes.data for y in found}) == 4 and all(y.flags.owndata for y in found)
    assert all(np.array_equal(y, found[0]) for y in found)


def test_other_shapes_strides_and_dtypes() -> None:
    x, w = normal(8, 16), normal(4, 16)
    for held in (x, x[::2], x[:3], x.astype(np.float16), x[:, ::-1], normal(16, 8).T, x.reshape(2, 4, 16)):
        for _ in range(3):
            y = ops.linear(held, w.astype(held.dtype))
            wanted = held.astype(np.float32) @ w.T
            np.testing.assert_allclose(y.astype(np.float32), wanted, rtol=5e-3, atol=5e-2)
            assert y.dtype == held.dtype


def test_errors_stay() -> None:
    x, w = normal(2, 8), normal(4, 8)
    called(ops.linear, x, w)
    out = np.empty((2, 4), np.float32)
    called(ops.linear, x, w, out=out)
    out.flags.writeable = False
    for _ in range(3):
        with pytest.raises(tc.TilecError, match=r"linear needs x \[..., K\] and a weight"):
            ops.linear(x[:, 1:], w)
        with pytest.raises(tc.TilecError, match="out is read-only"):
            ops.linear(x, w, out=out)
        with pytest.raises(tc.TilecError, match="expected activation None"):
            ops.linear(x, w, activation="tanh")
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            ops.linear(x)


def test_results_that_overlap_what_is_read() -> None:
    whole, w = normal(4, 8), normal(8, 8)
    x, out = whole[:2], np.empty((2, 8), np.float32)
    called(ops.linear, x, w, out=out)
    for _ in range(3):
        with pytest.raises(tc.TilecError, match="overlap"):
            ops.linear(x, w, out=whole[1:3])
    np.testing.assert_allclose(ops.linear(x, w, out=whole[2:]), x @ w.T, rtol=1e-4, atol=1e-4)
    called(ops.inception_depthwise_conv, y := normal(1, 6, 5, 5), *bands(), in_place=True)
    assert called(ops.inception_depthwise_conv, y, *bands(), in_place=True) is y


def bands() -> list[Array]:
    return [normal(2, 1, *size, seed=1) for size in ((3, 3), (1, 5), (5, 1))]


def test_one_array_for_two_and_two_for_one() -> None:
    """Which of two arguments a kernel read must not matter."""
    x, other, w = normal(3, 8), normal(3, 8, seed=1), normal(8, 8, seed=2)
    for residual in (x, x, x, other, other, other, x):
        found = ops.linear(x, w, residual=residual)
        np.testing.assert_allclose(found, x @ w.T + residual, rtol=1e-4, atol=1e-4)


def test_arrays_that_lie_between_each_other() -> None:
    """Query, key and value of one tensor, as layers make them, and then each by itself."""
    for seed in range(4):
        q, k, v = (normal(1, 6, 3, 2, 8, seed=seed)[:, :, i] for i in range(3))
        found = ops.attention(q, k, v)
        np.testing.assert_array_equal(found, ops.attention(*map(np.ascontiguousarray, (q, k, v))))
    q, k, v = (normal(1, 6, 6, 8, seed=seed)[:, :, ::3] for seed in range(3))  # strides alike
    np.testing.assert_array_equal(
        ops.attention(q, k, v), ops.attention(*map(np.ascontiguousarray, (q, k, v)))
    )


def test_numbers_that_only_look_alike() -> None:
    q, k, v = (normal(1, 4, 1, 8, seed=seed) for seed in range(3))
    for scale in (1.0, 1, 0.0, -0.0, np.float32(0.5), 0.5):
        wanted = plain(ops.attention, q, k, v, scale=scale)
        np.testing.assert_array_equal(called(ops.attention, q, k, v, scale=scale), wanted)
    for _ in range(3):
        with pytest.raises(tc.TilecError, match="scale is a number"):
            ops.attention(q, k, v, scale=float("nan"))
    looks = [
        again.look_of((x,), {}) for x in (0.0, -0.0, 0, False, 1, 1.0, True, float("nan"), np.float64(1))
    ]
    assert len({look.key for look in looks if look}) == len(looks)
    assert again.look_of((float("nan"),), {}).key == again.look_of((float("nan"),), {}).key


def test_dtypes_by_every_name() -> None:
    x, w = normal(3, 8), normal(4, 8)
    names: list[Any] = ["f16", tc.f16, np.float16, np.dtype(np.float16), "float16"]
    for name in names:
        assert called(ops.matmul, x, w.T, out_dtype=name).dtype == np.float16
    assert called(ops.matmul, x, w.T, out_dtype=np.float32).dtype == np.float32
    assert len(plays()) == len(names) + 1


def test_kernels_compiled_beforehand_are_noted() -> None:
    y, x = np.zeros(5, np.float32), normal(5)
    done = arrays.copy_kernel.compile(y, x, target="cpu")
    for _ in range(2):
        with tape.noting() as noted:
            done(y, x)
        assert len(noted.launches) == 1 and np.array_equal(y, x)


def test_targets_and_copies_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    x, w = normal(3, 8), normal(4, 8)
    y = called(ops.linear, x, w)
    with tc.target("emulator:sm_80"):
        for _ in range(3):
            np.testing.assert_allclose(ops.linear(x, w), y, rtol=1e-5, atol=1e-5)
    with tc.target("reference"):
        np.testing.assert_allclose(ops.linear(x, w), y, rtol=1e-5, atol=1e-5)
    called(ops.linear, x[:, ::-1], w)
    with ops.no_copies(), pytest.raises(tc.TilecError, match="would be copied"):
        ops.linear(x[:, ::-1], w)
    with tc.debug(5):
        ops.linear(x, w)
    assert "on cpu: 1 blocks" in capsys.readouterr().out
    np.testing.assert_array_equal(ops.linear(x, w), y)


def test_a_call_inside_a_kernel_is_still_refused() -> None:
    x, w = normal(3, 8), normal(4, 8)
    called(ops.linear, x, w)

    @tc.kernel
    def outer(a: tc.Array):
        ops.linear(x, w)

    with pytest.raises(tc.TilecError, match="called inside a kernel"):
        outer(x)


def test_weights_that_are_written_and_weights_that_are_gone() -> None:
    x, w = normal(3, 64), normal(8, 64)
    called(ops.linear, x, w)
    w *= 2
    np.testing.assert_allclose(ops.linear(x, w), x @ w.T, rtol=1e-4, atol=1e-4)
    for seed in range(6):  # one after another, and so perhaps at one address
        q = ops.quantize(normal(8, 64, seed=seed), "u4", group_size=32)
        for _ in range(3):
            np.testing.assert_allclose(ops.linear(x, q), x @ q.dequantize().T, rtol=1e-4, atol=1e-4)
        gone = weakref.ref(q)
        del q
        gc.collect()
        assert gone() is None, "a weight is not kept alive"


def test_no_array_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = normal(3, 8), normal(4, 8)
    gone = [weakref.ref(x), weakref.ref(w), weakref.ref(called(ops.linear, x, w, normal(4)))]
    del x, w
    assert plays() and not any(each() is not None for each in gone)


def test_constants_that_were_dropped_are_made_again() -> None:
    u, k = normal(2, 3, 64), normal(3, 64)
    wanted = called(ops.fft_conv, u, k)
    from tilec.ops.fft_conv_plan import tables_of

    tables_of.cache_clear()
    gc.collect()
    for _ in range(3):
        np.testing.assert_array_equal(ops.fft_conv(u, k), wanted)


def test_spectra() -> None:
    """Of kernels that are learnt: new ones at each step, in arrays of their own."""
    u, k = normal(2, 3, 20), normal(3, 20)
    made = []
    for step in range(4):
        made.append(ops.fft_conv_spectrum(k, 20, frequencies=0.5))
        wanted = plain(ops.fft_conv_spectrum, k, 20, frequencies=0.5) if step == 3 else made[-1]
        np.testing.assert_array_equal(made[-1].values, wanted.values)
        assert np.array_equal(ops.fft_conv(u, made[0]), ops.fft_conv(u, made[-1])) == (step == 0)
        k *= 1.5
    assert len({each.values.ctypes.data for each in made}) == 4 and made[0].plan == made[3].plan
    gone = weakref.ref(made[1].values)
    del made, wanted
    gc.collect()
    assert gone() is None and play_is_kept(ops.fft_conv_spectrum, k, 20)


def play_is_kept(op: Any, *args: Any) -> bool:
    for _ in range(2):
        op(*args)
    return len(plays()) == 1


def test_what_is_not_noted() -> None:
    """Copies that only numpy makes, and calls that make very much."""
    backwards, w = normal(3, 8)[:, ::-1], normal(4, 8)
    for _ in range(3):
        np.testing.assert_allclose(ops.linear(backwards, w), backwards @ w.T, rtol=1e-4, atol=1e-4)
    assert not plays() and play.NEVER in again.plays.values()
    with tape.noting() as noted:
        arrays.empty((tape.LARGEST + 1,), tc.dtype("u8"))
    assert not noted.whole and not noted.made
    assert again.look_of((object(),), {}) is None and again.look_of((np.ma.zeros(3),), {}) is None
    assert again.look_of(([w, {}],), {}) is None and again.look_of((1,), {"a": {}}) is None


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "REMEMBERED", 3)
    w = normal(4, 8)
    for m in range(1, 8):
        for _ in range(3):
            x = normal(m, 8)
            np.testing.assert_allclose(ops.linear(x, w), x @ w.T, rtol=1e-4, atol=1e-4)
    assert len(again.plays) <= 3


def test_threads_each_with_its_own_arrays() -> None:
    w, wrong = normal(256, 64), []

    def work(seed: int) -> None:
        for i in range(40):
            x = normal(16, 64, seed=seed + 10 * i)
            wrong.extend([] if np.allclose(ops.linear(x, w), x @ w.T, rtol=1e-3, atol=1e-3) else [seed])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_arrays_of_a_gpu(stub: StubDriver) -> None:
    w = tc.to_device(normal(16, 32, dtype=np.float16))
    for seed in range(4):
        x, out = normal(5, 32, seed=seed, dtype=np.float16), tc.to_device(np.zeros((5, 16), np.float16))
        found = ops.linear(tc.to_device(x), w)
        assert isinstance(found, tc.DeviceArray)
        np.testing.assert_allclose(found.numpy(), x @ w.numpy().T, rtol=2e-3, atol=5e-2)
        assert ops.linear(tc.to_device(x), w, out=out) is out
        np.testing.assert_array_equal(out.numpy(), found.numpy())
    assert len(plays()) == 2
