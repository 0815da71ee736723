"""`tilec bench plan`: what the model expects of linear layers on an H200, beside what others measured there.

    W4A16 model       22.1    22.2    22.4    24.3 ...
          published   22.4    22.5    22.9    24.1 ...
The published times are those of Humming (github.com/mgoin/humming, benchmarks/results/h200,
dense_n8192_k8192_g0): x f16 [m, 8192] by weights [8192, 8192] with one scale a row, each launched alone after
L2 was flushed. What a launch costs there and not in a graph is one number for the whole table, the median.
"""

from collections.abc import Iterator
from statistics import median

from tilec.ir.boards import rates
from tilec.ops.linear_choice import chosen
from tilec.ops.linear_cost import Problem
from tilec.ops.linear_plan import row

SIZE, FEW = 8192, 16
ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
PUBLISHED = {  # microseconds by bits of a weight, for each of ROWS
    1: (19.4, 19.4, 20.2, 21.9, 26.6, 35.4, 57.6, 99.9, 184.2, 366.4, 744.7, 1447.3),
    2: (19.4, 19.7, 20.2, 22.1, 26.4, 35.3, 58.0, 102.1, 190.7, 380.3, 762.3, 1497.8),
    3: (22.2, 22.5, 23.2, 24.4, 29.1, 36.1, 59.2, 104.2, 198.9, 401.3, 798.2, 1575.4),
    4: (22.4, 22.5, 22.9, 24.1, 28.1, 36.0, 58.8, 108.0, 201.1, 401.2, 801.6, 1572.8),
    5: (25.6, 25.4, 25.9, 27.0, 31.7, 37.5, 62.1, 112.3, 212.9, 426.4, 849.1, 1593.5),
    6: (26.9, 27.2, 27.5, 28.0, 32.2, 37.8, 62.6, 115.8, 210.4, 418.8, 823.5, 1551.8),
    7: (29.8, 29.9, 29.9, 30.8, 34.3, 39.1, 66.0, 121.1, 226.3, 444.2, 860.8, 1651.2),
    8: (31.2, 31.6, 31.9, 32.4, 33.9, 38.2, 60.2, 117.5, 211.6, 411.8, 792.1, 1529.5),
}
LINE = "{:<6}{:<12}" + "{:>8}" * len(ROWS)


def expected(bits: int, device: str = "H200") -> tuple[float, ...]:
    """Microseconds for each of ROWS, in a graph."""
    board = rates(device)
    problems = [Problem(m, SIZE, SIZE, bits, 0) for m in ROWS]
    return tuple(1e6 * row(p, board, chosen(p, board)).seconds for p in problems)


def alone() -> float:
    """Microseconds that a launch costs by itself in the published table: what few rows take more there."""
    few = sum(m <= FEW for m in ROWS)
    return median(
        theirs - ours
        for bits, published in PUBLISHED.items()
        for ours, theirs in zip(expected(bits)[:few], published[:few], strict=True)
    )


def table(runs: int) -> Iterator[str]:
    """Two lines for each width of weights; nothing is measured, `runs` has no part in it."""
    yield LINE.format("us", "m", *ROWS)
    extra = alone()
    for bits, theirs in PUBLISHED.items():
        ours = [time + extra for time in expected(bits)]
        yield LINE.format(f"W{bits}A16", "model", *(f"{time:.1f}" for time in ours))
        yield LINE.format("", "published", *(f"{time:.1f}" for time in theirs))
        yield LINE.format("", "ratio", *(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True)))
    yield f"H200, n = k = {SIZE}; the model's times with {extra:.1f} us more, for a launch alone"
