"""Dense products on the meaning and the CPU: batches, sizes, dtypes, where results go, bad input."""

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tilec.ir.errors import TilecError
from tilec.ops.matmul import matmul
from tilec.ops.reference import matmul_reference, relative_error

TOLERANCES = {np.float32: 1e-5, np.float16: 1.5e-3, ml_dtypes.bfloat16: 1e-2}
RAGGED = [(1, 7, 31), (7, 1, 129), (31, 33, 1), (33, 127, 7), (129, 31, 33), (127, 129, 127)]


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def target(request):
    with tc.target(request.param):
        yield request.param


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("m", "n", "k"), RAGGED)
def test_ragged_sizes(m: int, n: int, k: int, dtype):
    a, b = normal(m, k, dtype=dtype), normal(k, n, dtype=dtype, seed=1)
    c = matmul(a, b)
    assert c.dtype == dtype
    assert relative_error(c, matmul_reference(a, b)) < TOLERANCES[dtype]


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3, 5, 7), (7, 6)), ((4, 5, 7), (4, 7, 6)), ((5, 7), (3, 7, 6)), ((2, 1, 5, 7), (3, 7, 6)),
     ((1, 5, 7), (7, 6))],
)  # fmt: skip
def test_leading_axes(a, b):
    x, y = normal(*a), normal(*b)
    assert relative_error(matmul(x, y), matmul_reference(x, y)) < 1e-5


def test_strides_are_followed():
    a, b = normal(33, 20).T, normal(40, 66)[7:, ::2]
    assert relative_error(matmul(a, b), matmul_reference(a, b)) < 1e-5


def test_results_are_written_where_asked():
    a, b = normal(3, 5, 7), normal(3, 7, 6)
    out = np.full((6, 5, 3), np.nan, np.float32).transpose(2, 1, 0)  # leading axes that no view makes one
    assert matmul(a, b, out=out) is out
    assert relative_error(out, matmul_reference(a, b)) < 1e-5
    wide = matmul(a.astype(np.float16), b.astype(np.float16), out_dtype="f32")
    assert wide.dtype == np.float32
    assert relative_error(wide, matmul_reference(a.astype(np.float16), b.astype(np.float16))) < 1e-5


@pytest.mark.parametrize(("a", "b"), [((0, 7), (7, 6)), ((5, 7), (7, 0)), ((0, 5, 7), (0, 7, 6))])
def test_empty(a, b):
    assert matmul(normal(*a), normal(*b)).shape == np.matmul(normal(*a), normal(*b)).shape


def test_no_columns_sum_to_nothing():
    assert np.array_equal(matmul(normal(3, 0), normal(0, 4)), np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (normal(2, 3), normal(4, 5), {}, r"\[..., M, K\] and \[..., K, N\]: a is \[2, 3\], b is \[4, 5\]"),
        (normal(2, 3), normal(3, 5, dtype=np.float16), {}, "arrays of one dtype: a is f32, b is f16"),
        (normal(2, 3, dtype=np.float64), normal(3, 5), {}, "arrays of one dtype: a is f64, b is f32"),
        (np.ones((2, 3), np.int32), normal(3, 5), {}, "a is i32, expected f16, bf16, f32 or f64: a.astype"),
        (normal(3), normal(3, 5), {}, r"a needs at least 2 axes, found shape \[3\]"),
        ([[1.0]], normal(1, 5), {}, "a takes an array, found list"),
        (normal(2, 4, 3), normal(3, 3, 5), {}, r"leading axes of a \[2, 4, 3\] and b \[3, 3, 5\] do not"),
        (normal(2, 3), normal(3, 5), {"out": normal(2, 4)}, r"out is f32\[2, 4\], and the result f32"),
        (normal(2, 3), normal(3, 5), {"out_dtype": "f6e3m2"}, "numpy has no f6e3m2: expected a dtype"),
    ],
)  # fmt: skip
def test_bad_input(a, b, options, message):
    with pytest.raises(TilecError, match=message):
        matmul(a, b, **options)


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80"])
def test_doubles(target):
    a, b = normal(33, 40, dtype=np.float64), normal(40, 21, dtype=np.float64)
    with tc.target(target):
        c = matmul(a, b)
    assert c.dtype == np.float64 and np.linalg.norm(c - a @ b) < 1e-14 * np.linalg.norm(a @ b)
