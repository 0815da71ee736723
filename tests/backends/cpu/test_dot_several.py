"""Several products on the CPU: any dtypes and extents, operands in any order, sums that are there or not."""

import numpy as np
import pytest

from tests.backends.cpu.build import Builder, agree, array
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.inst import mma, shape

CASES = {  # dtypes of a, b and c: count, m, k, n
    "f32 f32 f32": (3, 5, 7, 9), "f16 f16 f32": (4, 16, 20, 24), "i8 i8 i32": (2, 1, 33, 5),
    "f64 f64 f64": (1, 8, 4, 17), "bf16 bf16 bf16": (8, 9, 16, 1),
}  # fmt: skip


def whole(dtype: DType, *extents: int) -> np.ndarray:
    """Small whole numbers: sums of their products are exact."""
    drawn = np.random.default_rng(extents).integers(-3, 4, extents)
    return codec.to_storage(np.asarray(codec.round_to(drawn, dtype)), dtype)


@pytest.mark.parametrize("start", ["zero", "tile"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtypes", CASES)
def test_several_products(dtypes: str, turned: bool, start: str) -> None:
    (s, m, k, n), (a, b, c) = CASES[dtypes], map(dt.dtype, dtypes.split())
    places = [(m, s, k), (s, n, k)] if turned else [(s, m, k), (s, k, n)]
    kinds = list(zip((a, b, c, c), [*places, (s, m, n), (s, m, n)], strict=True))
    make = Builder(*(array(dtype, *extents) for dtype, extents in kinds))
    x, y, sums = (make.load(v, (0, 0, 0), *p) for v, (_, p) in zip(make.params[:3], kinds[:3], strict=True))
    if turned:
        x, y = make(shape.Permute(x, (1, 0, 2))), make(shape.Permute(y, (0, 2, 1)))
    acc = sums if start == "tile" else make.const(0, c, s, m, n)
    make.store(make.params[3], (0, 0, 0), make(mma.Dot(x, y, acc)))
    agree(make.func(), [whole(dtype, *extents) for dtype, extents in kinds])
