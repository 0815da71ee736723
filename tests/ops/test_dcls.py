"""Learnable spacings: against a plain float64 sum over points, torch's gradients, and finite differences."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import ops
from tilec.backends.ptx.assemble import find
from tilec.ops.reference import relative_error

VERSIONS = ("v0", "v1", "max", "gauss")
CONVENTIONS = ("upstream", "corrected")
BOUNDS = {np.float64: 1e-12, np.float32: 2e-5, np.float16: 2e-3}


def some(
    version: str,
    size: tuple[int, int],
    lead: tuple[int, ...] = (5, 1),
    points: int = 7,
    dtype: Any = np.float64,
) -> tuple[Any, Any, Any]:
    """weight, positions, sigma; positions up to one step outside of the grid."""
    rng = np.random.default_rng([len(version), *size, points])
    weight = rng.standard_normal((*lead, points)).astype(dtype)
    most = np.array(size[::-1] if version != "v0" else size).reshape(2, *(1,) * (len(lead) + 1)) / 2 + 0.5
    positions = (rng.uniform(-1, 1, (2, *lead, points)) * most).astype(dtype)
    sigma = rng.standard_normal(positions.shape).astype(dtype) if version in ("max", "gauss") else None
    return weight, positions, sigma


def expected(
    weight: Any, positions: Any, size: tuple[int, int], sigma: Any, version: str, convention: str
) -> np.ndarray:
    """Point after point, element after element."""
    kernels = np.zeros((*weight.shape[:-1], *size))
    for at in np.ndindex(weight.shape):
        first, second = (float(p[at]) for p in positions)
        s_first, s_second = (0.0, 0.0) if sigma is None else (float(s[at]) for s in sigma)
        grid = np.zeros(size)
        for r, q in product(*map(range, size)):
            if version == "v0":
                row, column = first + size[0] // 2, second + size[1] // 2
                down, right = np.floor(row), np.floor(column)
                near = {down: down + 1 - row, down + 1: row - down}
                beside = {right: right + 1 - column, right + 1: column - right}
                grid[r, q] = near.get(r, 0.0) * beside.get(q, 0.0)
                continue
            of_columns, of_rows = (size[0], size[1]) if convention == "upstream" else (size[1], size[0])
            x, y = q - (first + of_columns // 2), r - (second + of_rows // 2)
            if version == "gauss":
                grid[r, q] = np.exp(
                    -((x / (abs(s_first) + 0.27)) ** 2 + (y / (abs(s_second) + 0.27)) ** 2) / 2
                )
            else:
                grid[r, q] = max(abs(s_first) + 1 - abs(x), 0) * max(abs(s_second) + 1 - abs(y), 0)
        if version != "v0":
            grid /= grid.sum() + 1e-7
        kernels[at[:-1]] += float(weight[at]) * grid
    return kernels


CASES = [*product(VERSIONS, CONVENTIONS, [(7, 7), (5, 9)])]


@pytest.mark.parametrize(("version", "convention", "size"), CASES)
def test_forward(version: str, convention: str, size: tuple[int, int], full: bool) -> None:
    for dtype, bound in BOUNDS.items():
        if not full and dtype != np.float32:
            continue
        weight, positions, sigma = some(version, size, dtype=dtype)
        out = np.full((5, 1, *size), np.nan, dtype)
        words = {"sigma": sigma, "version": version, "convention": convention}
        assert ops.dcls_kernel(weight, positions, size, **words, out=out) is out
        wanted = expected(weight, positions, size, sigma, version, convention)
        assert out.any() and relative_error(out, wanted) < bound


def test_conventions() -> None:
    """One point: which position is the row, and where the middle is of a grid of 3 x 7."""
    weight, positions = np.ones(1, np.float32), np.array([[1.0], [0.0]], np.float32)
    places = {
        (version, convention): tuple(
            int(i[0])
            for i in np.nonzero(
                ops.dcls_kernel(weight, positions, (3, 7), version=version, convention=convention)
            )
        )
        for version, convention in (("v0", "upstream"), ("v0", "corrected"), ("v1", "corrected"))
    }
    assert places == {("v0", "upstream"): (2, 3), ("v0", "corrected"): (2, 3), ("v1", "corrected"): (1, 4)}
    lost = ops.dcls_kernel(weight, positions, (3, 7))  # the row is counted from 7 // 2: outside
    assert not lost.any()
    square = [ops.dcls_kernel(weight, positions, (7, 7), convention=each) for each in CONVENTIONS]
    np.testing.assert_array_equal(*square)


def gradients(
    weight: Any, positions: Any, d: Any, sigma: Any, version: str, convention: str
) -> dict[str, np.ndarray]:
    """torch's, of a version that is written on whole grids: [.., points, rows, columns]."""
    torch = pytest.importorskip("torch")
    size = d.shape[-2:]
    w, p = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (weight, positions))
    s = None if sigma is None else torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    if version == "v0":
        r, c = p[0] + size[0] // 2, p[1] + size[1] // 2
        grid = torch.zeros((*w.shape, size[0] + 64, size[1] + 64), dtype=torch.float64)
        a, b = r.detach().floor(), c.detach().floor()
        for i, j in product((0, 1), (0, 1)):
            part = (r - a if i else 1 - (r - a)) * (c - b if j else 1 - (c - b))
            flat = ((a + i + 32) * (size[1] + 64) + b + j + 32).long()
            grid = grid.flatten(-2).scatter_add(-1, flat[..., None], part[..., None]).reshape(grid.shape)
        a = grid[..., 32:-32, 32:-32]
    else:
        middles = (size[0] // 2, size[1] // 2) if convention == "upstream" else (size[1] // 2, size[0] // 2)
        x = (torch.arange(size[1])[None, :] - (p[0] + middles[0])[..., None, None]).abs()
        y = (torch.arange(size[0])[:, None] - (p[1] + middles[1])[..., None, None]).abs()
        if version == "gauss":
            sx, sy = (each.abs()[..., None, None] + 0.27 for each in s)
            a = torch.exp(-0.5 * ((x / sx) ** 2 + (y / sy) ** 2))
        else:
            sx, sy = (1.0, 1.0) if s is None else (each.abs()[..., None, None] + 1 for each in s)
            a = (sx - x).relu() * (sy - y).relu()
        a = a / (a.sum((-2, -1), keepdim=True) + 1e-7)
    ((a * w[..., None, None]).sum(-3) * torch.tensor(d, dtype=torch.float64)).sum().backward()
    leaves = {"weight": w, "positions": p} | ({} if s is None else {"sigma": s})
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


@pytest.mark.parametrize(("version", "convention", "size"), CASES)
def test_gradients_are_torchs(version: str, convention: str, size: tuple[int, int], full: bool) -> None:
    for dtype, bound in BOUNDS.items():
        if not full and dtype != np.float32:
            continue
        weight, positions, sigma = some(version, size, dtype=dtype)
        d = np.random.default_rng(1).standard_normal((5, 1, *size)).astype(dtype)
        words = {"sigma": sigma, "version": version, "convention": convention}
        found = ops.dcls_kernel_backward(weight, positions, d, **words)
        wanted = gradients(weight, positions, d, sigma, version, convention)
        assert (found.sigma is None) == (sigma is None)
        for name, each in wanted.items():
            assert relative_error(getattr(found, name), each) < 4 * bound, name


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_at_corners_are_torchs(version: str) -> None:
    """Whole positions, sigma 0: where hats have corners."""
    weight, positions, sigma = some(version, (5, 5), dtype=np.float32)
    positions, sigma = np.round(positions), None if sigma is None else np.round(sigma)
    d = np.random.default_rng(1).standard_normal((5, 1, 5, 5)).astype(np.float32)
    found = ops.dcls_kernel_backward(weight, positions, d, sigma=sigma, version=version)
    for name, each in gradients(weight, positions, d, sigma, version, "upstream").items():
        assert relative_error(getattr(found, name), each) < 1e-4, name


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_are_differences(version: str) -> None:
    """In f64, a step to each side."""
    weight, positions, sigma = some(version, (5, 9), (2,), 3)
    d = np.random.default_rng(1).standard_normal((2, 5, 9))
    words = {"version": version, "convention": "corrected"}
    found = ops.dcls_kernel_backward(weight, positions, d, sigma=sigma, **words)
    given = {"weight": weight, "positions": positions, "sigma": sigma}
    for name, leaf in given.items():
        for at in np.ndindex(leaf.shape) if leaf is not None else ():
            sums = []
            for step in (1e-6, -1e-6):
                moved = leaf.copy()
                moved[at] += step
                now = given | {name: moved}
                made = ops.dcls_kernel(now["weight"], now["positions"], (5, 9), sigma=now["sigma"], **words)
                sums.append((made * d).sum())
            assert abs((sums[0] - sums[1]) / 2e-6 - getattr(found, name)[at]) < 1e-6, (name, at)


@pytest.mark.parametrize("target", ["reference", "emulator:sm_80", "emulator:sm_90a"])
@pytest.mark.parametrize("version", VERSIONS)
def test_other_runners(version: str, target: str, full: bool) -> None:
    if not full and (version, target) not in (("gauss", "emulator:sm_80"), ("v0", "emulator:sm_90a")):
        pytest.skip("make check-all runs it")
    weight, positions, sigma = some(version, (5, 9), (3,), dtype=np.float32)
    d = np.random.default_rng(1).standard_normal((3, 5, 9)).astype(np.float32)
    with tc.target(target):
        made = ops.dcls_kernel(weight, positions, (5, 9), sigma=sigma, version=version)
        found = ops.dcls_kernel_backward(weight, positions, d, sigma=sigma, version=version)
    assert relative_error(made, expected(weight, positions, (5, 9), sigma, version, "upstream")) < 1e-5
    for name, each in gradients(weight, positions, d, sigma, version, "upstream").items():
        assert relative_error(getattr(found, name), each) < 1e-4, name


def test_compile_and_shapes() -> None:
    done = ops.dcls_kernel.compile(channels=96, points=34, size=(17, 17), version="gauss", target="sm_80")
    back = ops.dcls_kernel_backward.compile(
        channels=96, points=34, size=(17, 17), version="max", target="sm_80"
    )
    for each in (done, back):
        assert "fma.rn.f32" in each.ptx
        assert not find("ptxas") or each.resources.spill_bytes == 0
    assert ops.dcls_kernel(np.ones((0, 1, 3)), np.ones((2, 0, 1, 3)), (3, 3)).shape == (0, 1, 3, 3)
    view = np.zeros((5, 2, 9, 9), np.float32)[:, :1, 1:8, 1:8]
    weight, positions, _ = some("v1", (7, 7), dtype=np.float32)
    ops.dcls_kernel(weight, positions, (7, 7), out=view)
    np.testing.assert_array_equal(view, ops.dcls_kernel(weight, positions, (7, 7)))


W, P, S = some("max", (5, 5), dtype=np.float32)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"version": "v2"}, "expected version 'v0', 'v1', 'max' or 'gauss', found 'v2'"),
    ({"convention": "mine"}, "expected convention 'upstream' or 'corrected', found 'mine'"),
    ({"size": 5}, r"size is \(rows, columns\), each 1 to 127: found 5"),
    ({"size": (5, 128)}, r"size is \(rows, columns\), each 1 to 127: found \(5, 128\)"),
    ({"sigma": S}, "version 'v1' takes no sigma"),
    ({"version": "gauss"}, "version 'gauss' takes sigma, like positions"),
    (
        {"weight": W.astype(int)},
        r"weight is i64\[5, 1, 7\], expected f16, bf16, f32 or f64 of 1 to 127 points",
    ),
    ({"weight": W[..., :0]}, r"weight is f32\[5, 1, 0\], expected .* of 1 to 127 points"),
    ({"positions": P[:1]}, r"positions is f32\[1, 5, 1, 7\], expected f32\[2, 5, 1, 7\] for this weight"),
    ({"positions": P.astype(np.float16)}, r"positions is f16\[2, 5, 1, 7\], expected f32"),
    ({"version": "max", "sigma": S[:, :4]}, r"sigma is f32\[2, 4, 1, 7\], expected f32\[2, 5, 1, 7\]"),
    ({"positions": None}, "positions takes an array, found NoneType"),
    ({"out": W}, r"out is f32\[5, 1, 7\], and the result f32\[5, 1, 5, 5\]"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(tc.TilecError, match=message):
        ops.dcls_kernel(**({"weight": W, "positions": P, "size": (5, 5)} | wrong))


def test_mistakes_of_gradients() -> None:
    with pytest.raises(
        tc.TilecError, match=r"d_kernel is f32\[4, 1, 5, 5\], expected f32 of shape \[5, 1, rows"
    ):
        ops.dcls_kernel_backward(W, P, np.ones((4, 1, 5, 5), np.float32))
