"""Neighborhood attention against its float64 definition: every option, and hundreds of random mixtures."""

import numpy as np
import pytest

import tilec as tc
from tests.ops.attention_cases import BOUNDS, mixture, normal, tensors
from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops.neighborhood_reference import neighborhood_reference
from tilec.ops.reference import relative_error


def check(q, k, v, kernel_size, **options) -> None:
    out, lse = ops.neighborhood_attention(q, k, v, kernel_size, return_lse=True, **options)
    assert out.dtype == q.dtype and lse.dtype == (np.float64 if q.dtype == np.float64 else np.float32)
    expected = neighborhood_reference(q, k, v, kernel_size, **options)
    bound = BOUNDS[q.dtype.type]
    assert relative_error(out, expected[0]) < bound
    assert np.abs(lse - expected[1]).max() < max(bound, 1e-5) * (1 + np.abs(expected[1]).max())


@pytest.mark.parametrize(
    ("extents", "options"),
    [
        ((13,), {"kernel_size": 5}),
        ((13,), {"kernel_size": 4}),  # an even window
        ((13,), {"kernel_size": 1}),
        ((13,), {"kernel_size": 13}),
        ((13,), {"kernel_size": 3, "dilation": 4}),  # groups of 4, 3, 3, 3
        ((13,), {"kernel_size": 5, "stride": 2}),
        ((13,), {"kernel_size": 5, "stride": 5}),
        ((13,), {"kernel_size": 5, "is_causal": True}),
        ((13,), {"kernel_size": 5, "stride": 3, "dilation": 2, "is_causal": True}),
        ((100,), {"kernel_size": 31}),
        ((9, 11), {"kernel_size": 3}),
        ((9, 11), {"kernel_size": (5, 4), "dilation": (1, 2), "is_causal": (False, True)}),
        ((9, 11), {"kernel_size": (9, 3), "stride": (1, 3)}),
        ((4, 5, 6), {"kernel_size": (3, 2, 5)}),
        ((4, 5, 6), {"kernel_size": 2, "stride": (1, 2, 2), "dilation": (2, 1, 3)}),
        ((4, 5, 6), {"kernel_size": (2, 5, 3), "is_causal": (True, False, True)}),
        ((13,), {"kernel_size": 5, "border": "zero"}),
        ((9, 11), {"kernel_size": (3, 5), "dilation": 2, "border": "zero"}),
        ((6,), {"kernel_size": 9, "border": "zero"}),
        ((13,), {"kernel_size": 5, "scale": 0.0}),
        ((13,), {"kernel_size": 5, "scale": -2.5}),
    ],
)
def test_windows(extents, options):
    check(*tensors(extents), **options)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_dtypes(dtype):
    check(*tensors((6, 7), dim=16, dtype=dtype), 3)


@pytest.mark.parametrize("dim", [8, 24, 40, 96, 256])
def test_head_dims(dim):
    check(*tensors((20,), dim=dim, value_dim=max(8, 256 - dim)), 5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (6, 3), (3, 3)])
def test_heads_share_keys(heads, kv_heads):
    check(*tensors((5, 6), heads=heads, kv_heads=kv_heads), 3)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_additional_keys_and_values(count):
    q, k, v = tensors((5, 6), heads=4, kv_heads=2, value_dim=16)
    added = {"additional_keys": normal(2, count, 2, 8), "additional_values": normal(2, count, 2, 16, seed=1)}
    check(q, k, v, 3, is_causal=(True, False), **added)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": (4, 3), "dilation": (1, 2), "stride": (2, 1)}]
)
@pytest.mark.parametrize("border", ["shift", "zero"])
def test_bias(options, border):
    sizes = options["kernel_size"] if isinstance(options["kernel_size"], tuple) else (3, 3)
    bias = normal(2, *(2 * w - 1 for w in sizes))
    check(*tensors((6, 7)), **options, bias=bias, border=border)


def test_large_scores_stay_finite():
    q, k, v = tensors((13,))
    check(100 * q, 100 * k, v, 5)


@pytest.mark.parametrize("extents", [(40,), (12, 14)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["query", "key"])
def test_what_a_query_does_not_see_does_not_matter(extents, bad, which):
    """Bit by bit, whatever stands in a key outside of its window, or in another query."""
    given = tensors(extents, batch=1)
    at = tuple(n // 2 for n in extents)
    expected = ops.neighborhood_attention(*given, 5, return_lse=True)
    given[which][(0, *at)] = bad
    near = [np.abs(np.arange(n) - x) <= 2 * which for n, x in zip(extents, at, strict=True)]
    other = np.ones(extents, bool)
    other[np.ix_(*near)] = False
    assert other.sum() == np.prod(extents) - (5 ** len(extents) if which else 1)
    for found, before in zip(ops.neighborhood_attention(*given, 5, return_lse=True), expected, strict=True):
        assert np.array_equal(found[0][other], before[0][other])


def test_biases_that_hide_keys():
    """-inf hides a key; where none is left out is 0 and lse -inf, so that merging leaves it out."""
    q, k, v = tensors((13,))
    bias = normal(2, 9)
    bias[1, ::2] = -np.inf
    check(q, k, v, 5, bias=bias)
    bias[:] = -np.inf
    out, lse = ops.na1d(q, k, v, 5, bias=bias, return_lse=True)
    assert not out.any() and (lse == -np.inf).all()
    merged, _ = ops.merge_attentions([out, v], [lse, np.zeros_like(lse)])
    np.testing.assert_array_equal(merged, v)


def test_any_strides():
    wide = normal(3, 2, 40, 13, 8).transpose(1, 3, 2, 0, 4)[..., ::2]
    q, k, v = (wide[:, :, 10 * i : 10 * i + 10, i] for i in range(3))
    check(q, k, v, 5)


def test_no_batch():
    out, lse = ops.na1d(*tensors((13,), batch=0, value_dim=16), 5, return_lse=True)
    assert out.shape == (0, 13, 2, 16) and lse.shape == (0, 13, 2)


def test_ranks_have_names():
    for na, extents in ((ops.na1d, (8,)), (ops.na2d, (4, 5)), (ops.na3d, (3, 4, 5))):
        q, k, v = tensors(extents)
        assert np.array_equal(na(q, k, v, 3), ops.neighborhood_attention(q, k, v, (3,) * len(extents)))


def test_mixtures(full):
    for seed in range(300 if full else 12):
        arrays, options = mixture(seed)
        check(*arrays, **options)


def test_mixtures_mean_the_same(full):
    with tc.target("reference"):
        for seed in range(100, 130 if full else 103):
            arrays, options = mixture(seed)
            check(*arrays, **options)


Q, K, V = tensors((6, 7), heads=4, kv_heads=2)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((Q, K, V), {"kernel_size": 4, "dilation": 2}, r"axis 0: kernel_size 4 x dilation 2 = 8 is over"),
        ((Q, K, V), {"kernel_size": 3, "stride": (1, 4)}, r"axis 1: stride 4 is over kernel_size 3"),
        ((Q, K, V), {"kernel_size": (3, 3, 3)}, "kernel_size is one whole number of 1 or more, or one per"),
        ((Q, K, V), {"kernel_size": 0}, "kernel_size is a whole number of 1 or more for each axis, found 0"),
        ((Q, K, V), {"kernel_size": 3.0}, "kernel_size is a whole number of 1 or more .*, found 3.0"),
        ((Q, K, V), {"kernel_size": 3, "dilation": 2**31}, r"dilation is up to 2\^31 - 1, .* found 21474"),
        ((Q, K, V), {"kernel_size": 3, "is_causal": 1}, "is_causal is a bool for each axis, found 1"),
        ((Q, K, V), {"kernel_size": 3, "scale": "x"}, "scale is a number .* or None .* found 'x'"),
        ((Q, K, V), {"kernel_size": 3, "border": "wrap"}, "expected border 'shift' or 'zero', found 'wrap'"),
        ((Q, K, V), {"kernel_size": 3, "additional_keys": K[:, 0]}, "additional_values is missing"),
        ((Q, K, V), {"kernel_size": 3, "additional_values": V[:, 0]}, "additional_keys is missing"),
        (
            (Q, K, V),
            {"kernel_size": 3, "additional_keys": K[:, 0, :, :, :4], "additional_values": V[:, 0]},
            r"additional_keys is f32\[2, 7, 2, 4\], expected f32\[2, T, 2, 8\]",
        ),
        (
            (Q, K, V),
            {"kernel_size": 3, "additional_keys": K[:, 0], "additional_values": V[:, 0, :5]},
            "additional_keys and additional_values have one length: 7 and 5",
        ),
        ((Q, K, V), {"kernel_size": 3, "bias": normal(4, 5, 4)},
         r"bias is floats \[4, 5, 5\], .* f32\[4, 5, 4\]"),
        ((Q, K[:, :, :, :1].repeat(3, 3), V[:, :, :, :1].repeat(3, 3)), {"kernel_size": 3},
         "the heads of key must divide those of query: query has 4, key 3"),
        ((Q, K[..., :4], V), {"kernel_size": 3}, r"one head dim, of 1 or more: query is \[2, 6, 7, 4, 8\]"),
        ((Q, K[:1], V[:1]), {"kernel_size": 3}, "query and key have one batch"),
        ((Q, K, V[:, :5]), {"kernel_size": 3}, "key and value differ in their last axis at most"),
        ((Q, K[:, :5], V[:, :5]), {"kernel_size": 3}, "query and key have one token layout: .*attention"),
        ((Q, K, V.astype(np.float16)), {"kernel_size": 3}, "query is f32, value f16; cast one"),
        ((Q.astype(np.int8), K, V), {"kernel_size": 3}, "query is i8, expected f16, bf16, f32 or f64"),
        ((Q, K[0], V[0]), {"kernel_size": 3}, r"key has the rank of query, 5: found \[6, 7, 2, 8\]"),
        ((Q[0, 0], K, V), {"kernel_size": 3}, r"takes query \[B, X.., H, D\] with 1 to 3 axes X"),
        (([1.0], K, V), {"kernel_size": 3}, "query takes an array, found list"),
    ],
)  # fmt: skip
def test_bad_input(arrays, options, message):
    with pytest.raises(TilecError, match=message):
        ops.neighborhood_attention(*arrays, **options)


def test_wrong_rank():
    with pytest.raises(
        TilecError, match=r"na1d takes query \[B, X, H, D\], of rank 4: found \[2, 6, 7, 4, 8\]"
    ):
        ops.na1d(Q, K, V, 3)
    with pytest.raises(TilecError, match=r"na3d takes query \[B, X, Y, Z, H, D\], of rank 6"):
        ops.na3d(Q, K, V, 3)
