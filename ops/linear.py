"""Linear layers whose weights are quantised to any type of 1 to 8 bits: one kernel text for all of them.

    y = linear(x, quantize(w, "u3"), bias, activation="gelu")        # x [..., K], w [N, K] -> y [..., N]
Weights are unpacked in registers. Their bytes come in the order in which threads feed them to the matrix
units (`QuantizedWeight.packed`), so that `tc.view` costs nothing; a group's scale is applied to its sums.
"""

from typing import Any

from tilec.ir.dtype import DType, f8e4m3
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.activations import CLASSES, check_bytes, check_class, rounded
from tilec.ops.arrays import ARRAYS, Array, array, empty, flat, operand, result, result_dtype, written_flat
from tilec.ops.callers import there
from tilec.ops.column_order import in_order
from tilec.ops.epilogue import PLAIN, Epilogue, Extras, finishing
from tilec.ops.factors import compute_dtype, placed_for, product_dtype
from tilec.ops.linear_kernel import check_sparsity, compile_linear, linear_kernel, whole_group
from tilec.ops.linear_plan import planned
from tilec.ops.matmul import product
from tilec.ops.sparse_linear import sparse_product, suited
from tilec.ops.sparse_weight import SparseWeight
from tilec.ops.split import room
from tilec.ops.tiling import Weighted, linear_tiling
from tilec.ops.weight import QuantizedWeight
from tilec.places import current_target


@planned(compile_linear)
def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    low_rank: Any = None,
    x_scale: Any = None,
    out_dtype: Any = None,
    out: Any = None,
    activations: str | None = None,
) -> Array:
    """activation(x @ weight^T + bias) + residual: x [..., K], weight [N, K] -> [..., N].

    `x` is f16, bf16 or f32, `weight` a QuantizedWeight, a SparseWeight or a dense array of x's dtype; sums
    are in f32. With a dense weight both may be f64, and so are sums then.
    `activation`: relu, gelu, silu. `low_rank` = (a [R, K], b [N, R]) adds (x @ a^T) @ b^T before the bias.
    With `x_scale` (one number per row, [...] or [..., 1]) x may be i8, f8e4m3 or f8e5m2, and stands for
    x * x_scale, as `quantize_activation` gives them. The result has x's dtype (f16 for 8 bits) unless
    `out_dtype` says otherwise; `out` is written in place. Raises TilecError for what does not fit.

    An i8 x is multiplied as bytes with weights quantised to integers: a group's products are summed exactly.
    An f8e4m3 x is multiplied as that where the target can (sm_89, sm_90a, sm_120) and f8e4m3 holds every
    weight: u1 to u5, i1 to i5, floats of at most 4 exponent and 3 mantissa bits; with zeros that are codes
    u1 to u4, i1 to i4. All other products are of f16, which holds both: exact as well, and summed in f32.
    (sm_90a's own sums of f8e4m3 may keep fewer bits. Groups that no step of 16 divides have scaled weights
    rounded to f16.)

    `activations` names another class of accuracy: x is rounded row by row while the layer runs, unless it
    comes in that dtype (ops/activations.py), and then multiplied as above.
    "int8", for weights quantised to integers: to 255 even steps from -max|x| to max|x|. An element is so off
    by at most max|x| / 254 * sum|w| over its row, beside the rounding of f32 sums: 0.4 to 1 % of a typical
    result, where products of x's own dtype are off by 0.0001 %. On the CPU that is 2 to 5 times faster.
    Groups that no step of 16 divides, and weights with zeros of floats, are multiplied in f32 then.
    "f8e4m3": to f8e4m3 times max|x| / 448. An element is off by at most sum|x w| / 16 (and max|x| / 2^18 *
    sum|w|), 2 to 3 % of a typical result, and less than with "int8" where few numbers are far the largest.
    """
    held, dtype = _rows(x, x_scale is not None)
    n, k = _weight_shape(weight)
    compute = compute_dtype(dtype)
    if held.shape[-1] != k:
        raise TilecError(
            f"linear needs x [..., K] and a weight [N, K]: x is {list(held.shape)}, the weight [{n}, {k}]"
        )
    if dtype.name == "f64" and isinstance(weight, QuantizedWeight | SparseWeight):
        raise TilecError("x is f64, expected f16, bf16 or f32 for a quantised weight: x.astype(np.float32)")
    check_class(activations)
    if isinstance(weight, SparseWeight):
        check_sparsity("2:4", activations)
        weight = suited(weight, compute)
    shape, rows = (*held.shape[:-1], n), flat(held, 2)
    given, epilogue = finishing(shape, bias, activation, residual, x_scale, None, None)
    if low_rank is not None:
        scaled = Extras(x_scale=given.x_scale), Epilogue(x_scale=epilogue.x_scale)
        u, v = _low_rank(rows, dtype, low_rank, n, scaled)
        given, epilogue = given._replace(u=u, v=v), epilogue._replace(low_rank=True)
    if activations is not None:
        rows, given, epilogue = _of_class(activations, rows, weight, given, epilogue)
    y = result(out, shape, result_dtype(out_dtype, out, compute))
    with written_flat(y, 2) as work:
        if isinstance(weight, SparseWeight):
            sparse_product(rows, weight, work, given, epilogue)
        elif isinstance(weight, QuantizedWeight):
            quantised_product(rows, weight, work, given, epilogue)
        else:
            dense = _same_dtype(weight, "a dense weight", compute)
            product(rows[None], dense.T[None], work[None], given, epilogue)
    return y


def quantised_product(
    x: Array,
    weight: QuantizedWeight,
    y: Array,
    given: Extras,
    epilogue: Epilogue,
    schedule: Weighted | None = None,
) -> None:
    """y = x @ weight^T, finished: x [M, K], y [M, N]. `schedule` instead of the target's own."""
    group, place = whole_group(weight.group_size, weight.shape[1]), current_target()
    compute, summed = product_dtypes(find_dtype(x.dtype), weight, group, place)
    size, finished = (weight.dtype.bits, *weight.shape), epilogue != PLAIN
    own = linear_tiling(x.shape[0], summed, group, place, *size, finished, weight.steady)
    tiling = placed_for(schedule or own, weight.dtype, weight.zeros is not None, place)
    linear_kernel(
        in_order(x, weight.order),
        there(weight.packed(tiling.fragment, tiling.placed)),
        there(weight.kernel_scales),
        there(weight.kernel_zeros),
        y,
        *map(there, given),
        *map(there, room(y.shape, tiling.bm, tiling.fragment.shape[1], tiling.split, tiling.blocks)),
        weight=weight.dtype,
        group=group,
        compute=compute,
        zero_point=weight.zeros is not None,
        epilogue=epilogue,
        once=x.shape[0] <= tiling.bm,
        **tiling._asdict(),
    )


def product_dtypes(x: DType, weight: QuantizedWeight, group: int, place: str) -> tuple[DType, DType]:
    """What products of x and a weight are made of, and what they are summed as: f32 where bytes have zeros of
    floats."""
    zeros = None if weight.zeros is None else find_dtype(weight.zeros.dtype)
    compute = product_dtype(x, weight.dtype, zeros, group, place)
    if compute == f8e4m3 and not weight.zeros_in_reach:
        compute = compute_dtype(compute)
    apart = compute.is_integer and zeros is not None and zeros.is_float
    return compute, find_dtype("f32") if apart else compute


def _of_class(
    name: str, x: Array, weight: Any, given: Extras, epilogue: Epilogue
) -> tuple[Array, Extras, Epilogue]:
    """x [M, K] in a class's dtype of 8 bits, its rows' scales among what finishes the product."""
    if not isinstance(weight, QuantizedWeight):
        raise TilecError(
            f"activations={name!r} takes a QuantizedWeight, found a dense one: ops.quantize(weight, 'i8')"
        )
    if name == "int8":
        check_bytes(weight.dtype)
    into = CLASSES[name]
    if into is None or find_dtype(x.dtype) == into:
        return x, given, epilogue
    q, scale = rounded(x, into, given.x_scale)
    return q, given._replace(x_scale=scale), epilogue._replace(x_scale=True)


def _rows(x: Any, scaled: bool) -> tuple[Array, DType]:
    """x, of a dtype that products are made of, or with scales of one of 8 bits."""
    held = array(x, "x", rank=1)
    if scaled and find_dtype(held.dtype).name in ("i8", "f8e4m3", "f8e5m2"):
        return held, find_dtype(held.dtype)
    return operand(held, "x")


def _weight_shape(weight: Any) -> tuple[int, int]:
    if not isinstance(weight, (QuantizedWeight, SparseWeight, *ARRAYS)) or len(weight.shape) != 2:
        found = f"shape {list(weight.shape)}" if hasattr(weight, "shape") else type(weight).__name__
        raise TilecError(f"linear takes a weight [N, K], a QuantizedWeight or an array, found {found}")
    n, k = weight.shape
    return n, k


def _same_dtype(x: Any, name: str, dtype: DType) -> Array:
    held, found = operand(x, name)
    if found != dtype:
        raise TilecError(f"{name} of linear has the dtype of its products, {dtype} here, found {found}")
    return held


def _low_rank(
    x: Array, dtype: DType, low_rank: Any, n: int, scaled: tuple[Extras, Epilogue]
) -> tuple[Array, Array]:
    """u = x @ a^T [M, R], times x's scales where it has some, and v = b^T [R, N] of low_rank = (a [R, K],
    b [N, R]).
    """
    a, b = (_same_dtype(each, "low_rank", compute_dtype(dtype)) for each in pair_of(low_rank))
    if a.ndim != 2 or a.shape[1] != x.shape[1] or b.shape != (n, len(a)):
        found = f"{list(a.shape)} and {list(b.shape)}"
        raise TilecError(f"low_rank is (a [R, {x.shape[1]}], b [{n}, R]) here, found {found}")
    u = empty((len(x), len(a)), compute_dtype(dtype))
    product(x[None], a.T[None], u[None], *scaled)
    return u, b.T


def pair_of(low_rank: Any) -> tuple[Any, Any]:
    """Both factors of a low-rank product; TilecError unless it is two things."""
    if not isinstance(low_rank, tuple | list) or len(low_rank) != 2:
        raise TilecError(f"low_rank is a pair (a [R, K], b [N, R]), found {type(low_rank).__name__}")
    return low_rank[0], low_rank[1]
