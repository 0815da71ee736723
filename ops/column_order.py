"""The columns of activations in the order in which a weight's groups have them (act-order checkpoints)."""

import tilec as tc
from tilec.ir.dtype import dtype as find_dtype
from tilec.ops.arrays import Array, empty
from tilec.ops.callers import there


@tc.kernel
def take_columns(
    x: tc.Array, order: tc.Array, out: tc.Array, *, rows: int = 4, columns: int = 256, warps: int = 4
) -> None:
    """out[i, j] = x[i, order[j]]"""
    i, j = tc.blocks(tc.cdiv(x.shape[0], rows), tc.cdiv(x.shape[1], columns))
    tc.require(out.shape == x.shape, order.shape[0] == x.shape[1])
    at = order.load(j * columns, columns)
    row = i * rows + tc.arange(rows)
    out.store((i * rows, j * columns), x.gather(row[:, None], at[None, :]))


def in_order(x: Array, order: Array | None) -> Array:
    """x [M, K] as a weight takes it: itself where the weight has no order of its own."""
    if order is None:
        return x
    taken = empty(x.shape, find_dtype(x.dtype))
    take_columns(x, there(order), taken)
    return taken
