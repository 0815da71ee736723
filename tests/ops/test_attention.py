"""Dense attention and merging against float64 numpy."""

import numpy as np
import pytest

import tilec as tc
from tests.ops.attention_cases import BOUNDS, normal, tensors
from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops.reference import relative_error


def dense(q, k, v, is_causal=False, scale=None):
    """out and lse."""
    wide = [x.astype(np.float64) for x in (q, k, v)]
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], 2) for x in wide[1:])
    scores = (q.shape[-1] ** -0.5 if scale is None else scale) * np.einsum("bihd,bjhd->bhij", wide[0], k)
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    largest = scores.max(-1, keepdims=True)
    p = np.exp(scores - largest)
    total = p.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", p / total, v), (largest + np.log(total))[..., 0].swapaxes(1, 2)


def gradients(q, k, v, d_out, d_lse, is_causal=False, scale=None):
    wide = [x.astype(np.float64) for x in (q, k, v)]
    heads, scale = q.shape[2] // k.shape[2], q.shape[-1] ** -0.5 if scale is None else scale
    kr, vr = (np.repeat(x, heads, 2) for x in wide[1:])
    out, lse = dense(q, k, v, is_causal, scale)
    p = np.exp(scale * np.einsum("bihd,bjhd->bhij", wide[0], kr) - lse.swapaxes(1, 2)[..., None])
    p = p * np.tri(*p.shape[-2:]) if is_causal else p
    delta = ((d_out * out).sum(-1) - d_lse).swapaxes(1, 2)[..., None]
    ds = p * (np.einsum("bihd,bjhd->bhij", d_out, vr) - delta)
    dq = scale * np.einsum("bhij,bjhd->bihd", ds, kr)
    dk, dv = scale * np.einsum("bhij,bihd->bjhd", ds, wide[0]), np.einsum("bhij,bihd->bjhd", p, d_out)
    return dq, *(x.reshape(*k.shape[:3], heads, -1).sum(3) for x in (dk, dv))


CASES = [
    ({"batch": 2, "dim": 8}, 1, {}),
    ({"heads": 4, "kv_heads": 2, "dim": 24, "value_dim": 40}, 127, {}),
    ({"dim": 16}, 33, {"is_causal": True}),
    ({"dim": 16}, 70, {"is_causal": True, "scale": 0.7}),
    ({"dim": 16}, 5, {"is_causal": True}),
]


def arrays(sizes, keys, dtype=np.float32):
    q, *_ = tensors((33,), dtype=dtype, **sizes)
    _, k, v = tensors((keys,), dtype=dtype, **sizes)
    return q, k, v


@pytest.mark.parametrize(("sizes", "keys", "options"), CASES)
def test_attention(sizes, keys, options):
    q, k, v = arrays(sizes, keys)
    out, lse = ops.attention(q, k, v, return_lse=True, **options)
    expected = dense(q, k, v, **options)
    assert relative_error(out, expected[0]) < 1e-5 and np.abs(lse - expected[1]).max() < 1e-4
    assert np.array_equal(out, ops.attention(q, k, v, **options))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_dtypes(dtype):
    q, k, v = arrays({"dim": 32}, 65, dtype)
    assert relative_error(ops.attention(q, k, v), dense(q, k, v)[0]) < BOUNDS[dtype]


@pytest.mark.parametrize(("sizes", "keys", "options"), CASES[1:])
def test_gradients(sizes, keys, options):
    q, k, v = arrays(sizes, keys)
    out, lse = ops.attention(q, k, v, return_lse=True, **options)
    d_out, d_lse = normal(*out.shape, seed=5), normal(*lse.shape, seed=6)
    found = ops.attention_backward(q, k, v, out, lse, d_out, d_lse=d_lse, **options)
    for x, y in zip(found[:3], gradients(q, k, v, d_out, d_lse, **options), strict=True):
        assert relative_error(x, y) < 2e-5


def test_meaning():
    q, k, v = arrays({"dim": 16}, 40)
    with tc.target("reference"):
        assert relative_error(ops.attention(q, k, v, is_causal=True), dense(q, k, v, True)[0]) < 1e-5


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("cuts", [(20,), (7, 30)])
def test_merging_parts(cuts, dtype):
    q, k, v = arrays({"dim": 16}, 50, dtype)
    parts = zip(np.split(k, cuts, 1), np.split(v, cuts, 1), strict=True)
    results = [ops.attention(q, each, other, return_lse=True) for each, other in parts]
    out, lse = ops.merge_attentions([r[0] for r in results], [r[1] for r in results])
    expected = dense(q, k, v)
    assert out.dtype == q.dtype and relative_error(out, expected[0]) < BOUNDS[dtype]
    assert np.abs(lse - expected[1]).max() < max(BOUNDS[dtype], 1e-5)


def test_merging_with_nothing():
    out, lse = normal(4, 8), normal(4)
    nothing, seen_none = np.zeros_like(out), np.full_like(lse, -np.inf)
    for given in ((out, nothing), (nothing, out)):
        lses = (lse, seen_none) if given[0] is out else (seen_none, lse)
        merged, merged_lse = ops.merge_attentions(given, lses)
        assert np.allclose(merged, out, rtol=1e-6) and np.allclose(merged_lse, lse, rtol=1e-6)
    merged, merged_lse = ops.merge_attentions((nothing, nothing), (seen_none, seen_none))
    assert not merged.any() and (merged_lse == -np.inf).all()


Q, K, V = arrays({"heads": 4, "kv_heads": 2}, 7)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((Q[0], K, V), {}, r"attention takes query \[B, L, H, D\]: found \[33, 4, 8\]"),
        ((Q, K[:, :0], V[:, :0]), {}, "attention needs at least one key"),
        ((Q, K, V), {"is_causal": (True, False)}, "is_causal is one bool, or one per axis, 1 here"),
        ((Q, K, V[:, :3]), {}, "key and value differ in their last axis at most"),
        ((Q, K.astype(np.float64), V), {}, "query is f32, key f64; cast one"),
        ((Q, K, V), {"scale": float("inf")}, r"scale is a number of up to 1e\+38, or None .* found inf"),
        ((Q, K, V), {"scale": 10**400}, r"scale is a number of up to 1e\+38"),
        ((Q, K, V), {"scale": 1j}, r"scale is a number .* found 1j"),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(TilecError, match=message):
        ops.attention(*given, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([Q], [Q[..., 0]]), "takes two results or more, each with its lse: found 1 and 1"),
        (([Q, Q], [Q[..., 0]]), "takes two results or more, each with its lse: found 2 and 1"),
        (
            ([Q, Q[:1]], [Q[..., 0], Q[:1, ..., 0]]),
            r"alike, f32\[2, 33, 4, 8\] with lse \[2, 33, 4\]: found f32\[1",
        ),
        (([Q, Q], [Q[..., 0], Q[..., 0, 0]]), r"found f32\[2, 33, 4, 8\] with lse f32\[2, 33\]"),
        (([Q.astype(np.int32)] * 2, [Q[..., 0]] * 2), "outputs is i32, expected f16, bf16, f32 or f64"),
        (([Q, Q], [Q[..., 0].astype(np.int32)] * 2), "lse is i32, expected f16, bf16, f32 or f64"),
    ],
)
def test_bad_parts(given, message):
    with pytest.raises(TilecError, match=message):
        ops.merge_attentions(*given)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"dtype": "u4"}, "dtype is u4, expected f16, bf16, f32 or f64"),
        ({"dim": 0}, "heads have a dim of 1 or more: found dim 0, value_dim None"),
        ({"value_dim": 0}, "heads have a dim of 1 or more: found dim 64, value_dim 0"),
        ({"heads": 4, "kv_heads": 3}, "heads is a multiple of kv_heads, .* found heads 4, kv_heads 3"),
        ({"kv_heads": 2}, "or one name stands for both: found heads 'h', kv_heads 2"),
    ],
)
def test_bad_problems(problem, message):
    """What nothing can be compiled for."""
    with pytest.raises(TilecError, match=message):
        ops.attention.compile(**problem, target="cpu")
    with pytest.raises(TilecError, match=message):
        ops.na1d.compile(shape=9, kernel_size=3, **problem, target="cpu")
