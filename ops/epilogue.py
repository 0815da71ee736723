"""What follows a product while it is still in registers: scales, low rank, bias, activation, residual.

    acc = finish(acc, i, j, Extras(bias, residual, x_scale, u, v), Epilogue(bias=True, activation="gelu"))
The arrays are arguments of every kernel; those that are not given are NOTHING, and `Epilogue` says which are.
"""

import math
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.errors import TilecError
from tilec.ops.arrays import ARRAYS, NOTHING, flat, optional

ACTIVATIONS = (None, "relu", "gelu", "silu")
RANKS = 16  # of the low-rank product, at once


class Epilogue(NamedTuple):
    """Which parts there are."""

    bias: bool = False
    activation: str | None = None
    residual: bool = False
    x_scale: bool = False
    low_rank: bool = False


class Extras(NamedTuple):
    """bias [N], residual [M, N], x_scale [M], u [M, R], v [R, N]; NOTHING where not given."""

    bias: Any = NOTHING
    residual: Any = NOTHING
    x_scale: Any = NOTHING
    u: Any = NOTHING
    v: Any = NOTHING


PLAIN = Epilogue()


def finishing(
    shape: tuple[int, ...], bias: Any, activation: str | None, residual: Any, x_scale: Any, u: Any, v: Any
) -> tuple[Extras, Epilogue]:
    """What finishes a result [..., N] of this shape, checked, leading axes made one; u, v: a low-rank product
    or None. Raises TilecError for an array that is not of floats or not of the shape that belongs there.
    """
    check_activation(activation)
    if isinstance(x_scale, ARRAYS) and x_scale.shape == (*shape[:-1], 1):
        x_scale = x_scale[..., 0]
    given = Extras(
        _floats(bias, "bias", shape[-1:], 1),
        _floats(residual, "residual", shape, 2),
        _floats(x_scale, "x_scale", shape[:-1], 1),
        NOTHING if u is None else u,
        NOTHING if v is None else v,
    )
    there = (x is not None for x in (residual, x_scale, u))
    return given, Epilogue(bias is not None, activation, *there)


def check_activation(name: str | None) -> None:
    """Raises TilecError for a name that is no activation."""
    if name not in ACTIVATIONS:
        raise TilecError(f"expected activation None, 'relu', 'gelu' or 'silu', found {name!r}")


def _floats(x: Any, name: str, shape: tuple[int, ...], rank: int) -> Any:
    """An array of floats of just this shape, with so many axes; or NOTHING."""
    given = optional(x, name, shape)
    return NOTHING if given is None else flat(given, rank)


# In kernels.


def finish(acc: tc.Tile, i: Any, j: Any, given: Extras, epilogue: Epilogue) -> tc.Tile:
    """activation(acc * x_scale + u @ v + bias) + residual, in acc's dtype, for tile (i, j)."""
    bm, bn = acc.shape
    if epilogue.x_scale:
        acc = acc * given.x_scale.load(i * bm, bm).to(acc.dtype)[:, None]
    if epilogue.low_rank:
        U, V = given.u.tiles((bm, RANKS)), given.v.tiles((RANKS, bn))
        for r in tc.range(U.shape[1]):
            acc = tc.dot(U[i, r], V[r, j], acc)
    if epilogue.bias:
        acc = acc + given.bias.load(j * bn, bn).to(acc.dtype)[None, :]
    acc = activated(acc, epilogue.activation)
    if epilogue.residual:
        acc = acc + given.residual.tiles((bm, bn))[i, j].to(acc.dtype)
    return acc


def activated(x: tc.Tile, name: str | None) -> tc.Tile:
    """relu, gelu (the exact one, by erf), silu, or x itself."""
    if name == "relu":
        x = tc.maximum(x, 0.0)
    if name == "gelu":
        x = x * 0.5 * (tc.erf(x * math.sqrt(0.5)) + 1.0)
    if name == "silu":
        x = x * tc.sigmoid(x)
    return x
