"""Neighborhood attention in float64 numpy, window by window: what kernels are held against.

    out, lse = neighborhood_reference(q, k, v, (7, 7), dilation=2)
The definition is NATTEN's (Hassani et al., "Neighborhood Attention Transformer", 2023; "Generalized
Neighborhood Attention", 2025). Along an axis, position p of a dilation group of length n sees the window of
its leader, the query in the middle (causal: the last) of the `stride` positions that p is among.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
OUTSIDE = -1  # a key of zeros, beyond the array


@dataclass(frozen=True)
class Window:
    """What the queries along one axis see."""

    size: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False
    border: str = "shift"

    def positions(self, p: int, length: int) -> range:
        """The positions, within its dilation group, that position p sees."""
        middle = self.stride - 1 if self.causal else self.stride // 2
        leader = min(p // self.stride * self.stride + middle, length - 1)
        first = leader - (self.size - 1 if self.causal else self.size // 2)
        if self.border == "shift":
            first = max(first if self.causal else min(first, length - self.size), 0)
        return range(first, p + 1 if self.causal else first + self.size)

    def tokens(self, i: int, length: int) -> list[int]:
        """The tokens that token i of an axis sees; OUTSIDE for what zeros stand for."""
        members = range(i % self.dilation, length, self.dilation)
        return [members[p] if 0 <= p < len(members) else OUTSIDE for p in self.seen(i, length)]

    def seen(self, i: int, length: int) -> range:
        """The positions, in its dilation group, that token i sees."""
        return self.positions(i // self.dilation, len(range(i % self.dilation, length, self.dilation)))

    def queries(self, j: int, length: int) -> list[int]:
        """The inverse: the tokens that see token j."""
        return [i for i in range(length) if j in self.tokens(i, length)]


class Problem(NamedTuple):
    """Queries [B, N, H, D] and keys and values [B, N + T, H, D] of flat tokens, T of them additional."""

    q: Float64
    k: Float64
    v: Float64
    scale: float
    extents: tuple[int, ...]
    windows: tuple[Window, ...]
    bias: Float64 | None

    def visible(self) -> Iterator[tuple[int, NDArray[np.int64], Any]]:
        """Per query: its number, those of its keys (-1: zeros), and where `bias` holds their biases."""
        n = self.q.shape[1]
        for i, place in enumerate(product(*map(range, self.extents))):
            axes = [w.tokens(x, m) for w, x, m in zip(self.windows, place, self.extents, strict=True)]
            flat = [self._flat(key) for key in product(*axes)]
            added = range(n, self.k.shape[1])
            yield i, np.array([*flat, *added]), self._offsets(place)

    def _flat(self, key: tuple[int, ...]) -> int:
        return OUTSIDE if OUTSIDE in key else int(np.ravel_multi_index(key, self.extents))

    def _offsets(self, place: tuple[int, ...]) -> Any:
        """Index arrays into bias[h]: how many steps of its group a key lies behind its query, plus w - 1."""
        steps = [
            [each - x // w.dilation + w.size - 1 for each in w.seen(x, m)]
            for w, x, m in zip(self.windows, place, self.extents, strict=True)
        ]
        return tuple(np.array(each) for each in zip(*product(*steps), strict=True))


def neighborhood_reference(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, kernel_size: Any, **options: Any
) -> tuple[Float64, Float64]:
    """(out [B, X.., H, Dv], lse [B, X.., H]): query [B, X.., H, D], key, value [B, X.., Hkv, D or Dv].

    Options as in ops.neighborhood_attention: stride, dilation, is_causal, scale, additional_keys,
    additional_values, border, bias.
    """
    problem = _problem(query, key, value, kernel_size, **options)
    out, lse = np.zeros((*problem.q.shape[:3], problem.v.shape[-1])), np.zeros(problem.q.shape[:3])
    k, v = _with_zeros(problem.k), _with_zeros(problem.v)
    for i, keys, offsets in problem.visible():
        p, lse[:, i] = _softmax(_scores(problem, k, i, keys, offsets))
        out[:, i] = np.einsum("bhn,bnhd->bhd", p, v[:, keys])
    return _spread(out, problem), _spread(lse, problem)


class Gradients(NamedTuple):
    """Of query, key, value; of bias and of the additional keys and values where there are any."""

    query: Float64
    key: Float64
    value: Float64
    bias: Float64 | None
    additional_keys: Float64 | None
    additional_values: Float64 | None


def neighborhood_backward_reference(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    kernel_size: Any,
    d_out: ArrayLike,
    d_lse: ArrayLike | None = None,
    **options: Any,
) -> Gradients:
    """The gradients of sum(out * d_out) + sum(lse * d_lse)."""
    x = _problem(query, key, value, kernel_size, **options)
    do = np.asarray(d_out, np.float64).reshape(*x.q.shape[:3], -1)
    dl = np.zeros(do.shape[:3]) if d_lse is None else np.asarray(d_lse, np.float64).reshape(do.shape[:3])
    k, v = _with_zeros(x.k), _with_zeros(x.v)
    dq, dk, dv = np.zeros_like(x.q), np.zeros_like(k), np.zeros_like(v)
    dbias = None if x.bias is None else np.zeros_like(x.bias)
    for i, keys, offsets in x.visible():
        p, _ = _softmax(_scores(x, k, i, keys, offsets))
        dp = np.einsum("bhd,bnhd->bhn", do[:, i], v[:, keys])
        ds = p * (dp - (p * dp).sum(-1, keepdims=True) + dl[:, i, :, None])
        dq[:, i] = x.scale * np.einsum("bhn,bnhd->bhd", ds, k[:, keys])
        _add(dk, (keys,), x.scale * np.einsum("bhn,bhd->bnhd", ds, x.q[:, i]))
        _add(dv, (keys,), np.einsum("bhn,bhd->bnhd", p, do[:, i]))
        if dbias is not None:
            _add(dbias, offsets, ds[..., : offsets[0].size].sum(0))
    n, added, heads = x.q.shape[1], x.k.shape[1] > x.q.shape[1], np.asarray(key).shape[-2]
    dk, dv = (_shared_heads(g[:, :-1], heads) for g in (dk, dv))
    key_shape, value_shape = ((*np.asarray(query).shape[:-2], heads, g.shape[-1]) for g in (dk, dv))
    return Gradients(
        _spread(dq, x), dk[:, :n].reshape(key_shape), dv[:, :n].reshape(value_shape), dbias,
        dk[:, n:] if added else None, dv[:, n:] if added else None,
    )  # fmt: skip


def _problem(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, kernel_size: Any, stride: Any = 1, dilation: Any = 1,
    is_causal: Any = False, scale: float | None = None, additional_keys: ArrayLike | None = None,
    additional_values: ArrayLike | None = None, border: str = "shift", bias: ArrayLike | None = None,
) -> Problem:  # fmt: skip
    q = np.asarray(query, np.float64)
    extents, heads = q.shape[1:-2], q.shape[-2]
    settings = (_per_axis(x, len(extents)) for x in (kernel_size, stride, dilation, is_causal))
    windows = tuple(Window(w, s, d, c, border) for w, s, d, c in zip(*settings, strict=True))
    k, v = (_all_keys(x, added, heads) for x, added in ((key, additional_keys), (value, additional_values)))
    wide = None if bias is None else np.asarray(bias, np.float64)
    flat = q.reshape(q.shape[0], int(np.prod(extents)), heads, q.shape[-1])
    return Problem(flat, k, v, q.shape[-1] ** -0.5 if scale is None else scale, extents, windows, wide)


def _per_axis(x: Any, axes: int) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, Sequence) else (x,) * axes


def _all_keys(x: ArrayLike, added: ArrayLike | None, heads: int) -> Float64:
    """Keys or values of flat tokens, additional ones behind, one head per head of the queries."""
    held = np.asarray(x, np.float64)
    flat = held.reshape(held.shape[0], int(np.prod(held.shape[1:-2])), *held.shape[-2:])
    if added is not None:
        flat = np.concatenate([flat, np.asarray(added, np.float64)], axis=1)
    return np.repeat(flat, heads // held.shape[-2], axis=2)


def _with_zeros(x: Float64) -> Float64:
    """One token of zeros behind the last, which index OUTSIDE finds."""
    return np.concatenate([x, np.zeros_like(x[:, :1] if x.shape[1] else x.sum(1, keepdims=True))], axis=1)


def _scores(x: Problem, k: Float64, i: int, keys: NDArray[np.int64], offsets: Any) -> Float64:
    """[B, H, keys]; additional keys have no bias."""
    scores = x.scale * np.einsum("bhd,bnhd->bhn", x.q[:, i], k[:, keys])
    if x.bias is not None:
        scores[..., : offsets[0].size] += x.bias[(slice(None), *offsets)]
    return np.asarray(scores)


def _softmax(scores: Float64) -> tuple[Float64, Float64]:
    """Zeros, and -inf, where biases of -inf leave nothing."""
    largest = np.maximum(scores.max(-1, keepdims=True), np.finfo(np.float64).min)
    p = np.exp(scores - largest)
    total = p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return p / np.where(total > 0, total, 1), (largest + np.log(total))[..., 0]


def _add(x: Float64, at: tuple[Any, ...], what: Any) -> None:
    """x[:, *at] += what, also where places repeat."""
    places: Any = (slice(None), *at)
    np.add.at(x, places, what)


def _spread(x: Float64, problem: Problem) -> Float64:
    """Flat tokens on their axes again."""
    return x.reshape(x.shape[0], *problem.extents, *x.shape[2:])


def _shared_heads(x: Float64, heads: int) -> Float64:
    """Gradients of key heads: the sum over the query heads that share them."""
    return np.asarray(x.reshape(*x.shape[:2], heads, -1, x.shape[-1]).sum(3))
