# ruff: noqa: E501 - one case a line
"""Calling kernels: arguments, constants, the cache, threads, where the source comes from."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tests.frontend.test_errors import build

Array = np.ndarray[Any, Any]


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    return np.ones(shape, dtype)


@tc.kernel
def axpy(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=64, negate=False):
    X, Y = x.tiles((block,)), y.tiles((block,))
    i = tc.blocks(*Y.shape)
    if negate:
        alpha = -alpha
    Y[i] = X[i] * alpha + Y[i]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, a: k(a), "axpy needs the argument y: axpy(x, y, alpha, *, block, negate)"),
        (lambda k, a: k(a, a, 1.0, 4), "axpy takes 3 arguments, found 4"),
        (lambda k, a: k(a, a, 1.0, x=a), "axpy is given x twice"),
        (lambda k, a: k(a, a.copy(), 1.0, blok=4), "axpy has no constant blok; did you mean block? It takes block"),
        (lambda k, a: k(a, a.copy(), 1.0, num_stages=4), "belongs to a loop: tc.range(n, stages=3)"),
        (lambda k, a: k(a, a.copy(), 1.0, maxnreg=4), "did you mean max_registers?"),
        (lambda k, a: k(a, a.copy(), 1.0, block=[4]), "constants of a kernel are hashable, found [4]"),
        (lambda k, a: k(a, a.copy(), 1.0, warps=0), "warps is a whole number of 1 or more, found 0"),
        (lambda k, a: k(a, a.copy(), 1.0, cluster=(1, 0)), "cluster is a whole number of 1 or more, found 0"),
        (lambda k, a: k(a, [1.0, 2.0], 1.0), "y takes an array, found list: pass np.array(..., dtype)"),
        (lambda k, a: k(a, 2.0, 1.0), "y takes an array, found float: a scalar parameter is annotated with a dtype"),
        (lambda k, a: k(a, "y", 1.0), "y takes an array, found str: pass a numpy array"),
        (lambda k, a: k(a, a.copy(), a), "alpha takes a number (f32), found ndarray"),
        (lambda k, a: k(a, a.copy(), 1e300), "alpha: the constant 1e+300 is outside f32"),
        (lambda k, a: k(a, a, 1.0), 'writes y, whose bytes overlap those of x: pass a copy, or say that this is meant'),
        (lambda k, a: k(a[:8], a[4:12], 1.0), "writes y, whose bytes overlap those of x"),
        (lambda k, a: k(a, frozen(a), 1.0), "axpy writes y, which is read-only: pass a copy"),
        (lambda k, a: k(a, one_for_all(16), 1.0), "y, whose 16 elements along axis 0 are one in memory (an expanded"),
        (lambda k, a: k(a.astype(">f4"), a, 1.0), "x is byte-swapped (>f4)"),
        (lambda k, a: k(a.astype(complex), a, 1.0), "x holds complex128, which no tile can hold"),
        (lambda k, a: k(a[::-1], a.copy(), 1.0), "x runs backwards along axis 0: pass np.ascontiguousarray(x), a copy"),
        (lambda k, a: k(a, np.ma.array(a), 1.0), "y is a masked array, whose mask kernels do not see: pass y.filled(...)"),
        (lambda k, a: k(uneven(), a, 1.0), "x has a stride of 5 bytes, which is no multiple of its elements' 4"),
        (lambda k, a: k(huge(), a, 1.0), "axis 0 of x has 2147483648 elements: extents end at 2^31 - 1"),
        (lambda k, a: k(ones(4, 4), a, 1.0), "x.tiles takes one entry per axis"),
    ],
)  # fmt: skip
def test_wrong_calls(call: Callable[[Any, Array], None], message: str) -> None:
    with pytest.raises(tc.TilecError) as caught:
        call(axpy.meaning, ones(16))
    assert message in str(caught.value)


def test_an_axis_of_one_element_has_any_stride() -> None:
    """Numpy leaves a stride that nobody takes as it was made, and ascontiguousarray does not copy for it."""
    backwards = np.ascontiguousarray(ones(1)[::-1])
    askew = np.lib.stride_tricks.as_strided(ones(4), (1,), (5,))
    for x in (backwards, askew):
        y = ones(1)
        axpy.meaning(x, y, 2.0)
        assert y.tolist() == [3.0]


def one_for_all(n: int) -> Array:
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (n,), (0,))


def frozen(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def uneven() -> Array:
    return np.zeros(4, [("a", "u1"), ("b", "<f4")])["b"]


def huge() -> Array:
    return np.broadcast_to(np.float32(1), (2**31,))


def test_interleaved_views_do_not_overlap() -> None:
    both = ones(32)
    axpy.meaning(both[0::2], both[1::2], 2.0)
    np.testing.assert_array_equal(both.reshape(16, 2), [[1, 3]] * 16)


def test_constants_and_scalars() -> None:
    x, y = ones(100), ones(100)
    axpy.meaning(x, y, np.float64(2.0), negate=True, block=32, warps=8)
    np.testing.assert_array_equal(y, -ones(100))
    axpy.meaning(x=x, y=y, alpha=np.asarray(3))
    np.testing.assert_array_equal(y, 2 * ones(100))


def test_one_and_true_are_different_constants() -> None:
    kernel = build(
        "@tc.kernel\ndef f(out: tc.Array, *, c):\n    tc.blocks(1)\n    out.store(0, 3 if c is True else 4)\n"
    )
    out = np.zeros(1, np.int32)
    for c, want in ((1, 4), (True, 3), (1, 4)):
        kernel.meaning(out, c=c)
        assert out[0] == want
    with pytest.raises(tc.TilecError, match=r"f needs the constant c=: f\(out, \*, c\)"):
        kernel.meaning(out)


@tc.kernel(alias=("x",))
def double(x: tc.Array, y: tc.Array):
    i = tc.blocks(tc.cdiv(x.shape[0], 8))
    y.store(i * 8, x.load(i * 8, 8) * 2)


def test_alias() -> None:
    x = ones(20)
    double.meaning(x, x)
    np.testing.assert_array_equal(x, 2 * ones(20))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@tc.kernel\ndef f(x): pass", "the parameter x needs an annotation: x: tc.Array"),
        ("@tc.kernel\ndef f(x: int): pass", "the parameter x is annotated <class 'int'>: expected tc.Array"),
        ("@tc.kernel\ndef f(*x: tc.Array): pass", "a kernel's parameters are known by name: *x is not possible"),
        ("@tc.kernel\ndef f(x: 'tc.Aray'): pass", "the annotation 'tc.Aray' of x cannot be read"),
        ("@tc.kernel(alias=('z',))\ndef f(x: tc.Array): pass", "alias= names arrays of the kernel, found 'z': there are x"),
        ("@tc.kernel\ndef f(x: tc.Array = None): pass", "the array x has a default, None: there is only x: tc.Array | None = None"),
        ("@tc.kernel\nclass f: pass", "@tc.kernel marks a function written with def, found type"),
    ],
)  # fmt: skip
def test_wrong_definitions(source: str, message: str) -> None:
    with pytest.raises(tc.TilecError) as caught:
        build(source)
    assert message in str(caught.value)


def test_annotations_may_be_strings() -> None:
    source = (
        "from __future__ import annotations\n@tc.kernel\ndef f(x: tc.Array, n: tc.i32):\n    x.store(0, n)\n"
    )
    x = np.zeros(1, np.int32)
    build(source).meaning(x, 7)
    assert x[0] == 7


def make(power: int) -> Any:
    """Kernels may be closures: each definition is a kernel of its own."""

    def raised(t: tc.Tile) -> tc.Tile:
        result = t
        for _ in range(power - 1):
            result = result * t
        return result

    @tc.kernel
    def f(x: tc.Array, y: tc.Array):
        y.store(0, raised(x.load(0, 4)))

    return f


def test_closures() -> None:
    x, y = np.arange(4, dtype=np.float32), ones(4)
    for power in (1, 2, 3):
        make(power).meaning(x, y)
        np.testing.assert_array_equal(y, x**power)


def test_specialisation_is_shared() -> None:
    kernel = make(2)
    for n in (8, 40, 72):
        kernel.meaning(ones(n), ones(n))
    assert len(kernel._compiled) == 1  # one multiple (8), one code
    kernel.meaning(ones(9), ones(9))
    assert len(kernel._compiled) == 2


def test_threads_share_one_kernel() -> None:
    kernel = make(3)
    x = np.arange(4, dtype=np.float32)

    def work(_: int) -> bool:
        y = ones(4)
        kernel.meaning(x, y)
        return bool((y == x**3).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
    assert len(kernel._compiled) == 1


def test_a_second_call_does_not_trace_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = ones(64), ones(64)
    axpy.meaning(x, y, 2.0)
    monkeypatch.setattr(sys.modules["tilec.kernels"], "trace", None)
    axpy.meaning(x, y, 2.0)
    axpy.meaning(x, ones(64), 2.0)


def test_static_extents_compile_anew() -> None:
    source = (
        "@tc.kernel\ndef f(x: tc.Array, out: tc.Array):\n"
        "    n = tc.static(x.shape[-1])\n    tc.blocks(1)\n    out.store(0, x.load(0, n).sum())\n"
    )
    kernel = build(source)
    for n in (3, 3, 5):
        out = ones(1)
        kernel.meaning(ones(n), out)
        assert out[0] == n
    assert len(kernel._compiled) == 2
    with pytest.raises(
        tc.TilecError, match=r"axis 0 of x as a constant .*: give its tc.Spec an integer there"
    ):
        kernel.compile(tc.Spec("f32", ("n",)), tc.Spec("f32", (1,)), target="reference")
    compiled = kernel.compile(tc.Spec("f32", (5,)), tc.Spec("f32", (1,)), target="reference")
    compiled(ones(5), out := ones(1))
    assert out[0] == 5


def test_errors_show_where_helpers_were_called() -> None:
    source = (
        "def half(t):\n    return t.to(tc.f16) + t\n\n"
        "@tc.kernel\ndef f(x: tc.Array):\n    y = half(x.load(0, 4))\n"
    )
    with pytest.raises(tc.TilecError) as caught:
        build(source).meaning(ones(4))
    assert caught.value.loc is not None and caught.value.loc.line == 2
    assert caught.value.__notes__ == [f"half was called at {caught.value.loc.file}:6"]


def test_the_source_has_changed(tmp_path: Any) -> None:
    path = tmp_path / "k.py"
    path.write_text("def g(): pass\n@tc.kernel\ndef f(x: tc.Array): pass\n")
    code = compile("\n\n@tc.kernel\ndef f(x: tc.Array): pass\n", str(path), "exec")
    names: dict[str, Any] = {"tc": tc}
    exec(code, names)  # files are read closely when a kernel is first used
    with pytest.raises(tc.TilecError, match="if the file was edited after it was imported, import it again"):
        names["f"](ones(1))
    path.write_text("")
    with pytest.raises(tc.TilecError, match="the source of f cannot be read"):
        exec(code, names)


def test_unreadable_functions_run_as_they_are() -> None:
    """A helper with syntax that we do not read is called, as long as it only moves values."""

    @tc.kernel
    def f(x: tc.Array, out: tc.Array, *, terms=4):
        out.store(0, horner(x.load(0, 4), *coefficients(terms)))

    x = np.linspace(-1, 1, 4).astype(np.float32)
    f.meaning(x, out := ones(4))
    np.testing.assert_allclose(out, 1 + x + x * x / 2 + x**3 / 6, rtol=1e-6)


def coefficients(terms: int) -> list[float]:
    try:
        return [1 / math.factorial(i) for i in range(terms)]
    finally:
        pass


def horner(x: Any, *c: float) -> Any:
    result = c[-1]
    for each in reversed(c[:-1]):
        result = result * x + each
    return result


@tc.kernel
def affine(
    x: tc.Array, bias: tc.Array | None, out: tc.Array, gain: tc.Array | None = None, shift: tc.bf16 = 0
):
    X, OUT = x.tiles((16,)), out.tiles((16,))
    i = tc.blocks(*OUT.shape)
    y = X[i]
    if bias is not None:
        y = y + bias.tiles((16,))[i]
    if gain is not None:
        y = y * gain.tiles((16,))[i]
    OUT[i] = y + shift.to(tc.f32)


def test_optional_arrays() -> None:
    x, b, g = (np.arange(20, dtype=np.float32) + k for k in range(3))
    for bias, gain in ((None, None), (b, None), (None, g), (b, g)):
        affine.meaning(x, bias, out := ones(20), gain, shift=0.5)
        want = (x + (0 if bias is None else b)) * (1 if gain is None else g) + 0.5
        np.testing.assert_array_equal(out, want)
    affine.meaning(x, None, out := ones(20))
    np.testing.assert_array_equal(out, x)
    compiled = affine.compile(x, None, out, None, target="reference")
    compiled(x, None, out, None, 1.0)
    np.testing.assert_array_equal(out, x + 1)
    with pytest.raises(tc.TilecError, match="out takes an array, found NoneType"):
        affine.meaning(x, b, None, g)


def test_partial_functions_are_inlined() -> None:
    @tc.kernel
    def f(out: tc.Array, n: tc.i32, *, choose):
        out.store(0, choose(n))

    for n, want in ((1, 10), (7, 70)):
        f.meaning(out := ones(1, dtype=np.int32), n, choose=partial(larger, 10))
        assert out[0] == want


def larger(k: int, n: tc.Tile) -> Any:
    result = k
    if n > 5:
        result = n * k
    return result
