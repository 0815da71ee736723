"""What a call of neighborhood attention will do, counted before it runs.

    print(na2d.plan((56, 56), 7, heads=4, dim=32, batch=64, target="sm_90a"))
Counts come from the functions that kernels compute windows with, so that they are what kernels do: along an
axis all boxes are counted, and since a block walks over a product of spans, axes multiply.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from tilec.ir.boards import Rates
from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.target import CPU, parse_target
from tilec.ops.arrays import float_of
from tilec.ops.attention_call import heads_of, windows
from tilec.ops.attention_tiling import group_lengths, tiled
from tilec.ops.attention_windows import Axis, seen_by, window_of

EXP2_LANES = 16  # exponentials that an SM's special function units start in one clock


@dataclass(frozen=True)
class AxisPlan:
    """Counts along one axis, over all its dilation groups."""

    axis: Axis
    tokens: int
    boxes: int  # of queries, those of short groups included that hold none
    visited: int  # spans of keys, over all boxes
    whole: int  # of those, seen whole by all queries of the box: they need no mask
    pairs: int  # of a query and a key that it sees


@dataclass(frozen=True)
class Plan:
    """What all blocks do together. `str` makes a table of it."""

    axes: tuple[AxisPlan, ...]
    batch: int
    heads: int
    dim: int
    value_dim: int
    dtype: DType
    target: str
    bytes: int  # query, key, value and out once each
    rates: Rates | None  # of the device that floors are for

    @property
    def blocks(self) -> int:
        return self._times(a.boxes for a in self.axes)

    @property
    def tiles(self) -> int:
        """Spans of keys that blocks walk over."""
        return self._times(a.visited for a in self.axes)

    @property
    def masked(self) -> int:
        """Those of them that are masked."""
        return self.tiles - self._times(a.whole for a in self.axes)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        return self._times(a.pairs for a in self.axes)

    @property
    def computed(self) -> int:
        """Pairs that are computed, exponentials too."""
        return self.tiles * prod(a.axis.box * a.axis.span for a in self.axes)

    @property
    def useful(self) -> float:
        """The share of computed pairs that are wanted."""
        return self.pairs / self.computed

    @property
    def flops(self) -> int:
        """Of the pairs that are wanted: two products, a multiplication and an addition each."""
        return 2 * (self.dim + self.value_dim) * self.pairs

    def _times(self, counts: Iterator[int]) -> int:
        return prod(counts) * self.batch * self.heads

    @property
    def floors(self) -> dict[str, float]:
        """Microseconds that no kernel on this device is under: for memory, for the products wanted, for their
        exponentials; and for the products and exponentials that these boxes compute. {} without a device."""
        if self.rates is None:
            return {}
        rate = self.rates.tensor_tflops(self.dtype.name) or self.rates.f32
        exponentials = EXP2_LANES * self.rates.sms * self.rates.clock * 1e3  # in a microsecond
        extra = self.computed / self.pairs
        return {
            "memory": self.bytes / self.rates.dram / 1e3,
            "products wanted": self.flops / rate / 1e6,
            "exponentials wanted": self.pairs / exponentials,
            "products computed": extra * self.flops / rate / 1e6,
            "exponentials computed": self.computed / exponentials,
        }

    def __str__(self) -> str:
        return "\n".join(_table(self))


def _table(plan: Plan) -> Iterator[str]:
    shape = " x ".join(str(a.tokens) for a in plan.axes)
    dims = plan.dim if plan.dim == plan.value_dim else f"{plan.dim} and {plan.value_dim}"
    yield f"{shape} tokens, batch {plan.batch}, {plan.heads} heads of {dims}, {plan.dtype}, for {plan.target}"
    yield "axis  tokens  window  stride  dilation  causal  queries  keys   boxes  spans  of them whole"
    for i, a in enumerate(plan.axes):
        x = a.axis
        causal = "yes" if x.causal else "no"
        yield (
            f"{'XYZ'[i]:<4}{a.tokens:8}{x.window:8}{x.stride:8}{x.dilation:10}{causal:>8}{x.box:9}{x.span:6}"
            f"{a.boxes:8}{a.visited:7}{a.whole:15}"
        )
    box, span = prod(a.axis.box for a in plan.axes), prod(a.axis.span for a in plan.axes)
    yield f"{plan.blocks} blocks of {box} queries walk over {plan.tiles} spans of {span} keys"
    yield f"{plan.masked / plan.tiles:.1%} of the spans are masked, {plan.useful:.1%} of the pairs are wanted"
    yield f"{plan.flops / 1e9:.2f} GFLOP wanted, {plan.flops / plan.useful / 1e9:.2f} computed"
    yield f"{plan.bytes / 1e6:.1f} MB of query, key, value and out"
    if plan.rates:
        yield f"floors on {plan.rates.board}, in microseconds:"
        yield from (f"    {name:<22}{time:10.1f}" for name, time in plan.floors.items())


def plan(
    shape: tuple[int, ...] | int,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    *,
    batch: int = 1,
    heads: int = 1,
    kv_heads: int | None = None,
    dim: int = 64,
    value_dim: int | None = None,
    dtype: Any = "f16",
    border: str = "shift",
    target: str = "sm_90a",
) -> Plan:
    """What neighborhood attention of query [batch, *shape, heads, dim] does on a target, with the boxes that
    are chosen for it. Raises TilecError for windows that do not fit, and for unknown targets.
    """
    extents, kind = (shape,) if isinstance(shape, int) else tuple(shape), float_of(dtype, "dtype")
    dv = heads_of(heads, kv_heads, dim, value_dim).value_dim
    if min(batch, heads, *extents) < 1:
        found = f"batch {batch}, heads {heads}, shape {extents}"
        raise TilecError(f"a plan is of one or more of each: found {found}")
    axes = windows(extents, kernel_size, stride, dilation, is_causal, border)
    cut = tiled(axes, group_lengths(extents, axes), max(dim, dv), kind.bytes, target).axes
    counted = tuple(count(axis, n) for axis, n in zip(cut, extents, strict=True))
    per_token = (heads + (kv_heads or heads)) * (dim + dv) * kind.bytes
    machine = parse_target(target).target or CPU
    return Plan(
        counted, batch, heads, dim, dv, kind, target, batch * prod(extents) * per_token, machine.rates
    )  # fmt: skip


def count(axis: Axis, tokens: int) -> AxisPlan:
    """All boxes of all dilation groups along an axis, as the kernel walks over them."""
    starts = range(0, -(-tokens // axis.dilation), axis.box)
    visited = whole = pairs = 0
    for group in range(axis.dilation):
        n = len(range(group, tokens, axis.dilation))
        for p in starts:
            seen = seen_by((p,), (axis.box,), (n,), (axis,))
            spans = range(seen.first[0], seen.last[0], axis.span)
            visited += len(spans)
            whole += sum(bool(seen.whole((u,), (axis,))) for u in spans)
        pairs += sum(w.end - w.first for w in (window_of(p, n, axis) for p in range(n)))
    return AxisPlan(axis, tokens, axis.dilation * len(starts), visited, whole, pairs)
