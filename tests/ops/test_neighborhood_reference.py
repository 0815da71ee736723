"""The float64 definition of neighborhood attention: windows by hand, laws, gradients by differences."""

from itertools import product

import numpy as np
import pytest

from tilec.ops.neighborhood_reference import (
    OUTSIDE,
    Window,
    neighborhood_backward_reference,
    neighborhood_reference,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize(
    ("window", "length", "i", "by_hand"),
    [
        (Window(3), 7, 3, [2, 3, 4]),
        (Window(3), 7, 0, [0, 1, 2]),  # shifted at the border
        (Window(3), 7, 6, [4, 5, 6]),
        (Window(4), 9, 4, [2, 3, 4, 5]),  # an even window looks left
        (Window(1), 5, 2, [2]),
        (Window(5), 5, 1, [0, 1, 2, 3, 4]),
        (Window(3, dilation=2), 9, 4, [2, 4, 6]),
        (Window(3, dilation=2), 9, 1, [1, 3, 5]),
        (Window(4, dilation=2), 9, 7, [1, 3, 5, 7]),  # the odd group has 4 members, the even one 5
        (Window(4, dilation=2), 9, 8, [2, 4, 6, 8]),
        (Window(3, stride=3), 9, 4, [3, 4, 5]),  # blocks
        (Window(3, stride=3), 8, 7, [5, 6, 7]),  # the last one is filled up
        (Window(4, stride=2), 8, 2, [1, 2, 3, 4]),  # its leader is 3
        (Window(3, causal=True), 7, 4, [2, 3, 4]),
        (Window(3, causal=True), 7, 1, [0, 1]),
        (Window(3, stride=2, causal=True), 7, 4, [3, 4]),  # its leader is 5, which sees 3
        (Window(3, border="zero"), 7, 0, [OUTSIDE, 0, 1]),
        (Window(3, dilation=2, border="zero"), 7, 6, [4, 6, OUTSIDE]),
    ],
)  # fmt: skip
def test_windows(window: Window, length: int, i: int, by_hand: list[int]):
    assert window.tokens(i, length) == by_hand


def axes(longest: int):
    for length in range(1, longest):
        for size in range(1, length + 1):
            for stride, dilation in product(range(1, size + 1), range(1, length // size + 1)):
                for causal in (False, True):
                    yield length, Window(size, stride, dilation, causal)


def test_every_token_sees_itself_and_windows_are_full():
    for length, window in axes(13):
        for i in range(length):
            seen = window.tokens(i, length)
            assert i in seen and OUTSIDE not in seen
            assert window.causal or len(seen) == window.size


def test_the_inverse_is_an_interval():
    for length, window in axes(11):
        for j in range(length):
            seen_by = window.queries(j, length)
            assert seen_by == list(range(seen_by[0], seen_by[-1] + 1, window.dilation))


def dense(q, k, v, scale, mask=None):
    scores = scale * np.einsum("bihd,bjhd->bhij", q, k)
    p = np.exp(scores) * (1 if mask is None else mask)
    return np.einsum("bhij,bjhd->bihd", p / p.sum(-1, keepdims=True), v), np.log(p.sum(-1)).swapaxes(1, 2)


def test_a_window_as_long_as_the_axis_is_dense():
    q, k, v = normal(2, 9, 3, 4), normal(2, 9, 3, 4, seed=1), normal(2, 9, 3, 5, seed=2)
    for causal in (False, True):
        out, lse = neighborhood_reference(q, k, v, 9, is_causal=causal)
        expected, dense_lse = dense(q, k, v, 0.5, np.tri(9) if causal else None)
        assert np.allclose(out, expected) and np.allclose(lse, dense_lse)


def test_two_axes_are_a_product_of_masks():
    q, k, v = normal(1, 5, 6, 2, 4), normal(1, 5, 6, 2, 4, seed=1), normal(1, 5, 6, 2, 4, seed=2)
    masks = [
        np.array([[j in w.tokens(i, n) for j in range(n)] for i in range(n)])
        for w, n in ((Window(3), 5), (Window(2, dilation=2), 6))
    ]
    expected, _ = dense(*(x.reshape(1, 30, 2, 4) for x in (q, k, v)), 1.0, np.kron(*masks))
    out, _ = neighborhood_reference(q, k, v, (3, 2), dilation=(1, 2), scale=1.0)
    assert np.allclose(out.reshape(expected.shape), expected)


def test_zeros_outside_count_as_keys():
    """As a convolution's padding does: pad the keys, and cut each window out."""
    q, k, v = normal(1, 6, 1, 4), normal(1, 6, 1, 4, seed=1), normal(1, 6, 1, 4, seed=2)
    padded = [np.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0))) for x in (k, v)]
    out, _ = neighborhood_reference(q, k, v, 5, border="zero")
    for i in range(6):
        expected, _ = dense(q[:, i : i + 1], *(x[:, i : i + 5] for x in padded), 0.5)
        assert np.allclose(out[:, i : i + 1], expected)


def test_shared_heads_and_additional_keys():
    q, k, v = normal(2, 5, 4, 3), normal(2, 5, 2, 3, seed=1), normal(2, 5, 2, 3, seed=2)
    added = [normal(2, 3, 2, 3, seed=s) for s in (3, 4)]
    out, lse = neighborhood_reference(q, k, v, 5, additional_keys=added[0], additional_values=added[1])
    wide = [np.repeat(np.concatenate(pair, 1), 2, 2) for pair in zip((k, v), added, strict=True)]
    expected, dense_lse = dense(q, *wide, 3**-0.5)
    assert np.allclose(out, expected) and np.allclose(lse, dense_lse)


def test_bias_by_relative_position():
    q, k, v, bias = normal(1, 4, 2, 3), normal(1, 4, 2, 3, seed=1), normal(1, 4, 2, 3, seed=2), normal(2, 5)
    out, _ = neighborhood_reference(q, k, v, 3, bias=bias)
    scores = 3**-0.5 * np.einsum("hd,nhd->hn", q[0, 0], k[0, :3]) + bias[:, 2:5]  # query 0 sees 0, 1, 2
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(out[0, 0], np.einsum("hn,nhd->hd", p, v[0, :3]))


CASES = [
    ((6,), {"kernel_size": 3}),
    ((7,), {"kernel_size": 4, "stride": 2, "is_causal": True}),
    ((7,), {"kernel_size": 3, "dilation": 2, "border": "zero", "scale": 0.3}),
    ((4, 5), {"kernel_size": (3, 2), "dilation": (1, 2), "stride": (2, 1)}),
]


@pytest.mark.parametrize(("extents", "options"), CASES)
def test_gradients_are_slopes(extents: tuple[int, ...], options: dict):
    rng = np.random.default_rng(0)
    sizes = options["kernel_size"] if isinstance(options["kernel_size"], tuple) else (options["kernel_size"],)
    given = {
        "query": rng.standard_normal((1, *extents, 2, 3)),
        "key": rng.standard_normal((1, *extents, 1, 3)),
        "value": rng.standard_normal((1, *extents, 1, 2)),
        "bias": rng.standard_normal((2, *(2 * w - 1 for w in sizes))),
        "additional_keys": rng.standard_normal((1, 2, 1, 3)),
        "additional_values": rng.standard_normal((1, 2, 1, 2)),
    }
    d_out, d_lse = rng.standard_normal((1, *extents, 2, 2)), rng.standard_normal((1, *extents, 2))

    def loss(**changed):
        out, lse = neighborhood_reference(**{**given, **changed}, **options)
        return (out * d_out).sum() + (lse * d_lse).sum()

    found = neighborhood_backward_reference(**given, d_out=d_out, d_lse=d_lse, **options)
    for name, x in given.items():
        step = 1e-6 * rng.standard_normal(x.shape)
        slope = loss(**{name: x + step}) - loss(**{name: x - step})
        assert np.isclose((getattr(found, name) * step).sum() * 2, slope, rtol=1e-4, atol=1e-12), name
