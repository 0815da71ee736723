"""Weights that keep two of each four: pruning, what is kept, and linear layers on every runner."""

import itertools
import re

import ml_dtypes
import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.runner import FULL
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ir.errors import TilecError
from tilec.ir.layouts import local, spatial
from tilec.ops.reference import linear_reference, relative_error
from tilec.ops.sparse_linear import sparse_tiling

TOLERANCES = {"float32": 1e-5, "float16": 1.5e-3, "bfloat16": 1e-2}
TARGETS = ("reference", "cpu", "emulator:sm_80", "emulator:sm_90a")


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def pruned(n: int, k: int, dtype=np.float32) -> np.ndarray:
    return ops.prune_2_4(normal(n, k, dtype=dtype, seed=1))


def check(x: np.ndarray, weight: ops.SparseWeight, bias=None, target: str = "cpu", **options) -> None:
    with tc.target(target):
        y = ops.linear(x, weight, bias, **options)
    expected = linear_reference(x, weight, bias, **options)
    assert relative_error(y, expected) < TOLERANCES[y.dtype.name], target


# What is kept.


def test_the_larger_two_of_each_four_are_kept():
    """Every order of four magnitudes, equal ones among them: the first of equals."""
    rows = np.array(list(itertools.product((-3, 0, 1, 2), repeat=4)), np.float32)
    for row, found in zip(rows, ops.prune_2_4(rows), strict=True):
        kept = sorted(range(4), key=lambda i: (-abs(row[i]), i))[:2]
        assert found.tolist() == [row[i] if i in kept else 0 for i in range(4)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_pruning_keeps_the_dtype(dtype):
    w = normal(3, 8, dtype=dtype)
    found = ops.prune_2_4(w)
    assert found.dtype == w.dtype and ((found == w) | (found == 0)).all() and (found != 0).sum() == 12


def test_pruning_compares_what_f32_does_not_tell_apart():
    w = np.array([[1e-60, 3e-60, 2e-60, 0], [1, 1 + 1e-12, 1, 1 + 2e-12], [1e300, 3e300, 2e300, -4e300]])
    assert ((ops.prune_2_4(w) != 0) == [[0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 0, 1]]).all()


def test_pruning_hides_no_nan():
    w = np.array([[np.nan, 1, 2, 3], [np.inf, -np.inf, 1, np.nan]], np.float16)
    np.testing.assert_array_equal(ops.prune_2_4(w), np.array([[np.nan, 0, 0, 3], [np.inf, 0, 0, np.nan]]))


@pytest.mark.parametrize("dtype", ["u4", "i3", "u1", "f6e3m2", "f8e5m2"])
def test_what_is_kept_is_quantised_alone(dtype: str):
    w = pruned(9, 96)
    q = ops.sparsify(w, dtype, group_size=32, zero_point=True)
    alone = ops.quantize(w[w != 0].reshape(9, 48), dtype, group_size=16, zero_point=True)
    found = q.dequantize()
    assert q.shape == (9, 96) and q.group_size == 32 and q.dtype.name == dtype
    np.testing.assert_array_equal(found[w != 0], alone.dequantize().ravel())
    assert not found[w == 0].any()
    assert q.nbytes == alone.nbytes + 9 * 48 // 4
    assert str(q) == f"SparseWeight({dtype} [9, 96], groups of 32)"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_floats_stay_what_they_are(dtype):
    w = pruned(5, 64, dtype)
    q = ops.sparsify(w)
    np.testing.assert_array_equal(q.dequantize(), w.astype(np.float32))
    assert q.nbytes == 5 * 32 * 2 + 5 * 32 // 4
    assert str(q) in ("SparseWeight(f16 [5, 64])", "SparseWeight(bf16 [5, 64])")


@pytest.mark.parametrize("zero_point", [False, True])
def test_codes_of_a_quantised_weight_stay_what_they_are(zero_point: bool):
    whole = ops.quantize(pruned(7, 64), "u4", group_size=32, zero_point=zero_point)
    q = ops.sparsify(whole)
    np.testing.assert_array_equal(q.dequantize(), whole.dequantize())
    assert q.nbytes < whole.nbytes


def test_places_are_in_order_whatever_is_zero():
    rows = np.array([r for r in itertools.product((0, 1), repeat=4) if sum(r) <= 2], np.float16)
    places = ops.sparsify(rows).places
    assert (places[:, 0] < places[:, 1]).all() and places.max() == 3
    np.testing.assert_array_equal(ops.sparsify(rows).dequantize(), rows)


def test_bytes_of_places_are_packed_with_pairs_in_order_at_the_edges():
    q = ops.sparsify(pruned(3, 12, np.float16))
    layout = spatial(8, 4) * local(4, 1)  # (32, 4) of places: six by three are there
    codes = tc.unpack(q.packed_places(layout).reshape(-1), "u2", 128)
    found = np.zeros((32, 4), int)
    found[tuple(np.moveaxis(layout.points(), -1, 0))] = codes.reshape(32, 4)
    np.testing.assert_array_equal(found[:6, :3], q.places.T)
    assert (found[::2] < found[1::2]).all()


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u4", "i3", "i1", "u8", "f6e3m2", "f8e4m3"])
def test_with_its_zeros_written_out(dtype: str, zero_point: bool):
    q = ops.sparsify(pruned(11, 100), dtype, group_size=48, zero_point=zero_point)
    if q.whole is None:
        assert dtype in ("f6e3m2", "f8e4m3") and zero_point  # a zero may lie between floats
        return
    np.testing.assert_array_equal(q.whole.dequantize(), q.dequantize())
    halves = dtype == "u1" and not zero_point  # its codes are -1/2 and 1/2: in half steps there is a 0
    assert q.whole.group_size == 48 and q.whole.dtype.name == ("i2" if halves else dtype)


ERRORS = {
    "of 4 weights are not 0 in weight[1, 4:8]: ops.prune_2_4(weight) keeps the larger two": lambda: (
        ops.sparsify(np.array([[0, 1, 2, 0] * 2, [0, 0, 0, 0, 1, 2, 0, 3]], np.float16))
    ),
    "2:4 weights have a multiple of 4 columns, found 6": lambda: ops.prune_2_4(normal(2, 6)),
    "expected a weight [N, K] of floats, found int64[2, 4]": lambda: ops.prune_2_4(np.ones((2, 4), int)),
    "expected a weight [N, K] of floats, found float32[4]": lambda: ops.sparsify(normal(4)),
    "2:4 weights that are not quantised are f16 or bf16, found f32: name a dtype": lambda: (
        ops.sparsify(pruned(2, 8))
    ),
    "expected a group_size that is a multiple of 4, or None for the whole row, found 6": lambda: (
        ops.sparsify(pruned(2, 8), "u4", group_size=6)
    ),
    "this weight is quantised to u4 already: leave the dtype out": lambda: (
        ops.sparsify(ops.quantize(pruned(2, 8), "u4"), "u3")
    ),
    "2:4 weights have a multiple of 4 columns, found 10": lambda: (
        ops.sparsify(ops.quantize(normal(2, 10), "u4"))
    ),
    "a group of a 2:4 weight is a multiple of 4 columns, found 6": lambda: (
        ops.sparsify(ops.quantize(pruned(2, 12), "u4", group_size=6))
    ),
    "x is multiplied in bf16, the 2:4 weight is of f16: expected one dtype": lambda: (
        ops.linear(normal(2, 8, dtype=ml_dtypes.bfloat16), ops.sparsify(pruned(2, 8, np.float16)))
    ),
    "x is f64, expected f16, bf16 or f32 for a quantised weight": lambda: (
        ops.linear(normal(2, 8, dtype=np.float64), ops.sparsify(pruned(2, 8), "u4"))
    ),
    "x is [2, 12], the weight [2, 8]": lambda: ops.linear(normal(2, 12), ops.sparsify(pruned(2, 8), "u4")),
    "2:4 weights take x as it is: activations='int8' is not for them": lambda: (
        ops.linear(normal(2, 8), ops.sparsify(pruned(2, 8), "u4"), activations="int8")
    ),
    "expected sparsity None or '2:4', found '1:4'": lambda: (
        ops.linear.compile(m=1, n=64, k=64, sparsity="1:4", target="sm_80")
    ),
    "2:4 weights have a multiple of 4 columns, found 62": lambda: (
        ops.linear.compile(m=1, n=64, k=62, sparsity="2:4", target="sm_80")
    ),
    "expected a group_size that is a multiple of 4, or None for the whole row, found -4": lambda: (
        ops.linear.compile(m=1, n=64, k=64, sparsity="2:4", group_size=-4, target="sm_80")
    ),
    "expected a group_size that is a multiple of 4, or None for the whole row, found 'row'": lambda: (
        ops.linear.compile(m=1, n=64, k=64, sparsity="2:4", group_size="row", target="sm_80")
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message: str):
    with pytest.raises(TilecError, match=re.escape(message)):
        ERRORS[message]()


def test_a_weight_in_an_order_of_its_own():
    whole = ops.quantize(pruned(2, 8), "u4")
    turned = ops.QuantizedWeight(
        whole.codes, whole.scales, None, whole.dtype, whole.scale_dtype, 8, np.arange(8, dtype=np.int32)[::-1]
    )
    with pytest.raises(TilecError, match="columns have an order of their own is not 2:4 along x's columns"):
        ops.sparsify(turned)


# Linear layers.

CASES = [  # m, n, k, weight, group, zero_point, x
    (5, 130, 200, "u4", 128, False, np.float16),
    (33, 64, 256, "i3", 64, True, np.float16),
    (16, 128, 512, None, None, False, np.float16),
    (9, 100, 96, "u8", 24, True, np.float16),
    (70, 129, 260, "f6e3m2", 32, False, np.float16),
    (7, 33, 128, "u1", None, False, np.float32),
    (1, 31, 132, "f8e5m2", 256, False, ml_dtypes.bfloat16),
    (20, 40, 64, None, None, False, ml_dtypes.bfloat16),
]
RUNS = [(*case, t) for i, case in enumerate(CASES) for j, t in enumerate(TARGETS)
        if FULL or t == "cpu" or j % 2 == i % 2]  # fmt: skip


@pytest.mark.parametrize(("m", "n", "k", "weight", "group", "zero_point", "dtype", "target"), RUNS)
def test_every_runner(m, n, k, weight, group, zero_point, dtype, target):
    if weight is None:
        q = ops.sparsify(pruned(n, k, dtype))
    else:
        q = ops.sparsify(pruned(n, k), weight, group_size=group, zero_point=zero_point)
    check(normal(m, k, dtype=dtype), q, normal(n, dtype=dtype), target, activation="silu")


@pytest.mark.parametrize("dtype", ["u2", "i4", "u5", "u6", "i7", "f4e2m1", "f8e4m3"])
def test_every_kind_of_weight(dtype: str):
    for target in ("cpu", "emulator:sm_80", "emulator:sm_90a"):
        check(normal(8, 256, dtype=np.float16), ops.sparsify(pruned(128, 256), dtype), target=target)


@pytest.mark.parametrize("target", ["cpu", "emulator:sm_80"])
def test_an_identity_shows_the_weight_itself(target: str):
    w = pruned(70, 136, np.float16)
    with tc.target(target):
        np.testing.assert_array_equal(ops.linear(np.eye(136, dtype=np.float16), ops.sparsify(w)), w.T)


def test_all_that_finishes_it():
    q = ops.sparsify(pruned(48, 128), "u4", group_size=64)
    x, residual = normal(2, 3, 128, dtype=np.float16), normal(2, 3, 48, dtype=np.float16)
    check(x, q, normal(48, dtype=np.float16), activation="gelu", residual=residual)
    a, b = normal(8, 128, dtype=np.float16), normal(48, 8, dtype=np.float16)
    whole = q.dequantize().astype(np.float64) + b.astype(np.float64) @ a.astype(np.float64)
    assert relative_error(ops.linear(x, q, low_rank=(a, b)), linear_reference(x, whole)) < 1.5e-3
    codes, scale = np.arange(-6, 6, dtype=np.int8).repeat(32).reshape(3, 128), np.float32([0.5, 2, 1])
    y = ops.linear(codes, q, x_scale=scale)
    assert y.dtype == np.float16
    assert relative_error(y, linear_reference(codes * scale[:, None], q)) < 1.5e-3


def test_blocks_share_the_sums_of_a_tile():
    assert sparse_tiling(4, tc.f16, 128, "sm_80", 4, 64, 2048).split > 1
    q = ops.sparsify(pruned(64, 2048), "u4")
    check(normal(4, 2048, dtype=np.float16), q, target="emulator:sm_80")


def test_arrays_of_torch():
    torch = pytest.importorskip("torch")
    w = ops.prune_2_4(torch.from_numpy(normal(16, 32)))
    assert isinstance(w, torch.Tensor) and int((w != 0).sum()) == 256
    q = ops.sparsify(w.half())
    y = ops.linear(torch.from_numpy(normal(3, 32, dtype=np.float16)), q)
    assert isinstance(y, torch.Tensor)
    wanted = torch.from_numpy(normal(3, 32, dtype=np.float16)) @ w.half().T
    torch.testing.assert_close(y, wanted, rtol=2e-3, atol=1e-2)


# As machine code.

needs_ptxas = pytest.mark.skipif(find("ptxas") is None or find("nvdisasm") is None, reason="no assembler")


@needs_ptxas
@pytest.mark.parametrize("target", ["sm_80"])
@pytest.mark.parametrize(
    ("m", "weight", "most"),
    [(1, "u4", 24), (16, "u4", 13), (64, "u4", 8.5), (16, "f16", 7.1), ("m", "f16", 3.7), (16, "i3", 14.5)],
)
def test_the_loop(m, weight, most, target):
    """Instructions for each product, which does the work of two; nothing spilled or written back."""
    made = ops.linear.compile(m=m, n=4096, k=4096, weight=weight, sparsity="2:4", target=target)
    assert made.resources.spill_bytes == 0 and made.resources.registers <= 255
    loop = made.hot_loop
    assert loop is not None and loop.products and loop.instructions / loop.products < most
    assert not {"STS", "STL", "LDL"} & set(loop.counts)
    assert "HMMA.SP" in made.sass


@needs_ptxas
@pytest.mark.parametrize(
    ("m", "weight", "most", "registers"),
    [(16, "u4", 37, 64), (128, "f16", 24, 112), *[(128, "u4", 51, 176), (16, "f16", 24, 64)][: 2 * FULL]],
)
def test_the_loop_of_warpgroups(m, weight, most, registers):
    """As test_the_loop: two warpgroups' wgmma.sp of 32 along k, which dense ones need two for."""
    made = ops.linear.compile(m=m, n=4096, k=4096, weight=weight, sparsity="2:4", target="sm_90a")
    assert made.resources.spill_bytes == 0 and made.resources.registers <= registers
    loop = made.hot_loop
    assert loop is not None and loop.products == 4 and loop.instructions / loop.products < most
    assert not {"STS", "STL", "LDL"} & set(loop.counts) and "HMMA.SP" not in made.sass
    assert f"wgmma.mma_async.sp.sync.aligned.m64n{m}k32.f32.f16.f16" in made.ptx


def test_one_packed_copy_serves_warpgroups_for_every_m():
    few, many = (sparse_tiling(m, tc.f16, 128, "sm_90a", 4) for m in (1, 4096))
    assert (few.fragment, few.spots) == (many.fragment, many.spots) and few.bm < many.bm


@pytest.mark.parametrize("weight", ["u4", "u3"])
def test_what_the_kernel_is_made_of(weight: str):
    """Codes and places are copied 16 bytes at a time, also by a part of the threads (u3: 192 pieces), places
    go into products as they come."""
    ptx = ops.linear.compile(m=16, n=4096, k=4096, weight=weight, sparsity="2:4", target="sm_80").ptx
    assert re.search(r"cp\.async\.cg\.shared\.global \[.*\], \[.*\], 16", ptx)
    assert ptx.count("mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32") == 16
    assert "ldmatrix.sync.aligned.m8n8.x4" in ptx and "st.shared" not in ptx
