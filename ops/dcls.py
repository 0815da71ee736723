"""Dilated convolution with learnable spacings: kernels made of points whose places are learned.

    kernel = dcls_kernel(weight, positions, (17, 17))     # weight [C, 1, points], positions [2, C, 1, points]
    y = depthwise_conv(x, kernel, padding="same")
    d_weight, d_positions, _ = dcls_kernel_backward(weight, positions, d_kernel)
From Khalfaoui-Hassani, Pellegrini and Masquelier, "Dilated convolution with learnable spacings", 2021, and
"... beyond bilinear interpolation", 2023; the meaning is that of their package (upstream).
"""

from math import prod
from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import FLOATS, Array, array, contiguous, empty, result, sums_in, told, written_flat
from tilec.ops.dcls_kernel import Grid, place_gradient_kernel, place_kernel
from tilec.ops.op import op

VERSIONS = ("v0", "v1", "max", "gauss")
CONVENTIONS = ("upstream", "corrected")
LARGEST = 127  # rows, columns and points


class DclsGradients(NamedTuple):
    """Of sum(kernel * d_kernel): those of weight, positions and, where there is one, sigma."""

    weight: Array
    positions: Array
    sigma: Array | None


class Points(NamedTuple):
    """Of a checked call: weight [N, points], positions and sigma [2, N, points]."""

    weight: Array
    positions: Array
    sigma: Array | None


def compile_dcls(
    *,
    channels: int,
    points: int,
    size: tuple[int, int],
    version: str = "v1",
    convention: str = "upstream",
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel for so many grids of this size."""
    kind, grid = find_dtype(dtype), _grid(size, version, convention)
    pairs = tc.Spec(kind, (2, channels, points))
    return place_kernel.compile(
        tc.Spec(kind, (channels, points)), pairs, pairs if version in ("max", "gauss") else None,
        tc.Spec(kind, (channels, *size)), grid=grid, accumulator=sums_in(kind), target=target,
    )  # fmt: skip


@op(compile_dcls)
def dcls_kernel(
    weight: Any,
    positions: Any,
    size: tuple[int, int],
    *,
    sigma: Any = None,
    version: str = "v1",
    convention: str = "upstream",
    out: Any = None,
) -> Array:
    """Kernels [.., rows, columns] of points: weight [.., points], positions and sigma [2, .., points].

    A position is counted from the grid's middle, element extent // 2. By distance x along an axis a point
    reaches its neighbours by: "v0" max(1 - |x|, 0), "v1" the same, scaled so that all it adds is its weight,
    "max" max(|sigma| + 1 - |x|, 0) and "gauss" exp(-(x / (|sigma| + 0.27))^2 / 2), scaled likewise.

    `convention`: "upstream" takes positions[0] as the row in v0, and as the column in all others, where it is
    counted from rows // 2 and the row from columns // 2: of kernels that are not square some weight is lost.
    "corrected" has the same order, and the middle of rows and columns each its own; squares are the same.
    All arrays are of one dtype, f16, bf16, f32 or f64; sums are in f32, or f64 for f64. Raises TilecError for
    what does not fit.
    """
    grid = _grid(size, version, convention)
    points, lead = _points(weight, positions, sigma, version)
    dtype = find_dtype(points.weight.dtype)
    y = result(out, (*lead, *grid.size), dtype)
    with written_flat(y, 3) as flat:
        place_kernel(*points, flat, grid=grid, accumulator=sums_in(dtype))
    return y


def compile_dcls_backward(
    *,
    channels: int,
    points: int,
    size: tuple[int, int],
    version: str = "v1",
    convention: str = "upstream",
    dtype: Any = "f32",
    target: str = "sm_90a",
) -> tc.Compiled:
    """The kernel of the gradients for so many grids of this size."""
    kind, grid = find_dtype(dtype), _grid(size, version, convention)
    ours, pairs = tc.Spec(kind, (channels, points)), tc.Spec(kind, (2, channels, points))
    sigma = pairs if version in ("max", "gauss") else None
    return place_gradient_kernel.compile(
        ours, pairs, sigma, tc.Spec(kind, (channels, *size)), ours, pairs, sigma,
        grid=grid, accumulator=sums_in(kind), target=target,
    )  # fmt: skip


@op(compile_dcls_backward)
def dcls_kernel_backward(
    weight: Any,
    positions: Any,
    d_kernel: Any,
    *,
    sigma: Any = None,
    version: str = "v1",
    convention: str = "upstream",
) -> DclsGradients:
    """The gradients of sum(kernel * d_kernel), where kernel = dcls_kernel(...) with the same arguments and
    the size of d_kernel [.., rows, columns]. At a corner of a hat they are torch's: those of |x| and of
    max(x, 0) are 0 at 0; in v0 those of floor(position) and what is left of it. Raises TilecError for what
    does not fit.
    """
    points, lead = _points(weight, positions, sigma, version)
    above, dtype = array(d_kernel, "d_kernel", rank=2), find_dtype(points.weight.dtype)
    if above.shape[:-2] != lead or find_dtype(above.dtype) != dtype:
        raise TilecError(
            f"d_kernel is {told(above)}, expected {dtype} of shape "
            f"[{', '.join(map(str, lead))}, rows, columns]"
        )
    grid = _grid(above.shape[-2:], version, convention)
    above = contiguous(above, "d_kernel").reshape(prod(lead), *grid.size)
    made = [None if x is None else empty(x.shape, dtype) for x in points]
    place_gradient_kernel(*points, above, *made, grid=grid, accumulator=sums_in(dtype))
    n = points.weight.shape[1]
    shapes = ((*lead, n), (2, *lead, n), (2, *lead, n))
    return DclsGradients(*(None if x is None else x.reshape(*s) for x, s in zip(made, shapes, strict=True)))  # type: ignore[arg-type]


def _grid(size: Any, version: str, convention: str) -> Grid:
    """Where rows and columns stand among the positions, and their middles."""
    if version not in VERSIONS:
        raise TilecError(f"expected version 'v0', 'v1', 'max' or 'gauss', found {version!r}")
    if convention not in CONVENTIONS:
        raise TilecError(f"expected convention 'upstream' or 'corrected', found {convention!r}")
    pair = tuple(size) if isinstance(size, tuple | list) else (size,)
    if len(pair) != 2 or not all(isinstance(k, int) and 0 < k <= LARGEST for k in pair):
        raise TilecError(f"size is (rows, columns), each 1 to {LARGEST}: found {size!r}")
    middle = (pair[0] // 2, pair[1] // 2)
    rows = 0 if version == "v0" else 1
    crossed = rows == 1 and convention == "upstream"
    return Grid(version, (pair[0], pair[1]), rows, middle[::-1] if crossed else middle)


def _points(weight: Any, positions: Any, sigma: Any, version: str) -> tuple[Points, tuple[int, ...]]:
    """The points, leading axes made one, and those axes."""
    if (sigma is not None) != (version in ("max", "gauss")) and version in VERSIONS:
        takes = "takes no sigma" if sigma is not None else "takes sigma, like positions"
        raise TilecError(f"version {version!r} {takes}")
    w, places = array(weight, "weight", rank=1), array(positions, "positions", rank=1)
    widths = None if sigma is None else array(sigma, "sigma", rank=1)
    lead, n, dtype = w.shape[:-1], w.shape[-1], find_dtype(w.dtype)
    if dtype.name not in FLOATS or not 0 < n <= LARGEST:
        raise TilecError(
            f"weight is {dtype}{list(w.shape)}, expected f16, bf16, f32 or f64 of 1 to {LARGEST} points"
        )
    for x, name in ((places, "positions"), (widths, "sigma")):
        if x is not None and (x.shape != (2, *w.shape) or x.dtype != w.dtype):
            raise TilecError(f"{name} is {told(x)}, expected {dtype}{[2, *w.shape]} for this weight")
    pairs = (2, prod(lead), n)
    s = None if widths is None else _rows(widths, pairs)
    return Points(_rows(w, pairs[1:]), _rows(places, pairs), s), lead


def _rows(x: Array, shape: tuple[int, ...]) -> Array:
    return contiguous(x, "an array").reshape(*shape)
