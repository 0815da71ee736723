"""The kernels that place learnable points on grids, and their gradients.

A point adds weight * a(row - p) * a(column - q) to every element of its grid, a being a hat, a wider one or a
bell around the point; but for v0, all that it adds is scaled so that its sum is the weight. As rows and
columns are apart, a grid is a product of two small matrices, [rows, points] @ [points, columns], and so is
what the gradients are sums of.
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType

TINY = 1e-7  # added to the sum by which a point is scaled, as upstream does
NARROWEST = 0.27  # of a bell


class Grid(NamedTuple):
    """Which version, how many rows and columns, which of the two positions is the row's, and where the middle
    is that positions are counted from: (of rows, of columns).
    """

    version: str
    size: tuple[int, int]
    rows: int
    middle: tuple[int, int]


class Along(NamedTuple):
    """Along one axis, tiles [points, extent]: a, its derivatives by position and by s, and their sums."""

    a: tc.Tile
    by_place: tc.Tile
    by_width: tc.Tile

    def sums(self) -> tuple[tc.Tile, tc.Tile, tc.Tile]:
        """[points, 1] each."""
        return tuple(each.sum(1)[:, None] for each in self)  # type: ignore[return-value]


def along(positions: tc.Array, sigma: tc.Array | None, n: Any, axis: int, grid: Grid, kind: DType) -> Along:
    """How the points of grid n reach over rows (axis 0) or columns (axis 1)."""
    points, extent = tc.static(positions.shape[2]), grid.size[axis]
    which = grid.rows if axis == 0 else 1 - grid.rows
    p = positions[which].load((n, 0), (1, points)).to(kind).reshape((points, 1)) + float(grid.middle[axis])
    x = tc.arange(extent).to(kind)[None, :] - p
    if sigma is None:
        return hats(x, tc.full((points, 1), 1.0, kind), grid.version)
    s = tc.abs(sigma[which].load((n, 0), (1, points)).to(kind).reshape((points, 1)))
    return bells(x, s + NARROWEST) if grid.version == "gauss" else hats(x, s + 1.0, grid.version)


def bells(x: tc.Tile, s: tc.Tile) -> Along:
    """exp(-(x / s)^2 / 2)"""
    far = x / s
    a = tc.exp(far * far * -0.5)
    return Along(a, a * far / s, a * far * far / s)


def hats(x: tc.Tile, s: tc.Tile, version: str) -> Along:
    """max(s - |x|, 0). At a corner it is flat, but in v0, which looks at the point's right."""
    a, zero = tc.maximum(s - tc.abs(x), 0.0), tc.zeros(x.shape, x.dtype)
    one = zero + 1.0
    if version == "v0":
        slope = tc.where((x > 0.0) & (x <= 1.0), one, tc.where((x > -1.0) & (x <= 0.0), -one, zero))
        return Along(a, slope, zero)
    inside = tc.where(a > 0.0, one, zero)
    return Along(a, tc.where(x > 0.0, inside, tc.where(x < 0.0, -inside, zero)), inside)


def scale_of(rows: tc.Tile, columns: tc.Tile, grid: Grid) -> tc.Tile:
    """What the sum of a point's part is made the weight with: [points, 1]."""
    ones = tc.full(rows.shape, 1.0, rows.dtype)
    return ones if grid.version == "v0" else ones / (rows * columns + TINY)


@tc.kernel
def place_kernel(
    weight: tc.Array, positions: tc.Array, sigma: tc.Array | None, y: tc.Array, *, grid: Grid,
    accumulator: DType = tc.f32, warps: int = 4,
) -> None:  # fmt: skip
    """y [N, rows, columns] of N grids' points; weight [N, points], positions and sigma [2, N, points]."""
    n, points = tc.blocks(y.shape[0]), tc.static(weight.shape[1])
    rows, columns = (along(positions, sigma, n, axis, grid, accumulator) for axis in (0, 1))
    scale = scale_of(rows.sums()[0], columns.sums()[0], grid)
    w = weight.load((n, 0), (1, points)).to(accumulator).reshape((points, 1)) * scale
    made = tc.dot((rows.a * w).T, columns.a, tc.zeros(grid.size, accumulator))
    y[n].store((0, 0), made.to(y.dtype))


@tc.kernel
def place_gradient_kernel(
    weight: tc.Array, positions: tc.Array, sigma: tc.Array | None, above: tc.Array, d_weight: tc.Array,
    d_positions: tc.Array, d_sigma: tc.Array | None, *, grid: Grid, accumulator: DType = tc.f32,
    warps: int = 4,
) -> None:  # fmt: skip
    """The gradients of sum(y * above), above [N, rows, columns].

    A point's part is w * b / t, where b = sum(above * a) and t = sum(a): its derivative by anything that a
    depends on is w / t * (b' - b / t * t').
    """
    n, points = tc.blocks(above.shape[0]), tc.static(weight.shape[1])
    rows, columns = (along(positions, sigma, n, axis, grid, accumulator) for axis in (0, 1))
    given = above[n].load((0, 0), grid.size).to(accumulator)
    down = tc.dot(
        columns.a, given.T, tc.zeros((points, grid.size[0]), accumulator)
    )  # above summed along rows
    right = tc.dot(rows.a, given, tc.zeros((points, grid.size[1]), accumulator))
    sums = rows.sums(), columns.sums()
    scale = scale_of(sums[0][0], sums[1][0], grid)
    mean = (rows.a * down).sum(1)[:, None] * scale
    d_weight.store((n, 0), mean.reshape((1, points)).to(d_weight.dtype))
    w = weight.load((n, 0), (1, points)).to(accumulator).reshape((points, 1)) * scale
    for axis in tc.static_range(2):
        side, seen = (rows, down) if axis == 0 else (columns, right)
        other = sums[1 - axis][0]
        which = grid.rows if axis == 0 else 1 - grid.rows
        moved = slope(side.by_place, seen, sums[axis][1], other, mean, w, grid)
        d_positions[which].store((n, 0), moved.reshape((1, points)).to(d_positions.dtype))
        if d_sigma is not None and sigma is not None:
            wider = slope(side.by_width, seen, sums[axis][2], other, mean, w, grid).reshape((1, points))
            s = sigma[which].load((n, 0), (1, points)).to(accumulator)
            sign = tc.where(s < 0.0, -wider, tc.where(s > 0.0, wider, wider * 0.0))
            d_sigma[which].store((n, 0), sign.to(d_sigma.dtype))


def slope(
    by: tc.Tile, seen: tc.Tile, total: tc.Tile, other: tc.Tile, mean: tc.Tile, w: tc.Tile, grid: Grid
) -> tc.Tile:
    """The derivative of a point's part, [points, 1]. `total`: the sum of `by`; `other`: the other axis's."""
    found = (by * seen).sum(1)[:, None]
    if grid.version != "v0":
        found = found - mean * total * other
    return found * w
