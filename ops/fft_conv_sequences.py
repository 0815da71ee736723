"""Sequences as transforms take them: two of a channel as one complex one, gated, continued past their ends.

    z = u[2 i] + i u[2 i + 1]
The spectrum that z is multiplied with belongs to real numbers, so the result's real part is the one's
convolution and its imaginary part the other's: nothing has to be taken apart.
"""

from typing import Any, NamedTuple

import tilec as tc
from tilec.ir.dtype import DType
from tilec.ops.fft_conv_complex import Complex


class Continued(NamedTuple):
    """Places first .. last - 1 of the period have what stands `shift` places before them."""

    first: Any
    last: Any
    shift: Any


def continued(plan: Any, length: Any, taps: Any, flipped: bool) -> Continued | None:
    """How a circular convolution's sequence goes on where it is shorter than the period."""
    if not plan.wraps:
        return None
    if flipped:  # what comes later is read: the start once more, after the end
        return Continued(length, length + taps - 1, length)
    return Continued(plan.period - taps + 1, plan.period, plan.period - length)


class Pair(NamedTuple):
    """Rows 2 i and 2 i + 1 of a channel of arrays [B, H, L]; the second may be past the end, and is zero."""

    i: Any
    channel: Any
    kind: DType

    def read(
        self, x: tc.Array, gate: tc.Array | None, at: Any, count: int, more: Continued | None
    ) -> Complex:
        """x * gate from `at` on, [1, 1, count]."""
        return Complex(*(self._row(x, gate, 2 * self.i + row, at, count, more) for row in range(2)))

    def _row(
        self, x: tc.Array, gate: tc.Array | None, row: Any, at: Any, count: int, more: Continued | None
    ) -> Any:
        value = self._gated(x, gate, row, at, count)
        if more is None:
            return value
        place = at + tc.arange(count)[None, None, :]
        inside = (place >= more.first) & (place < more.last)
        return value + tc.where(inside, self._gated(x, gate, row, at - more.shift, count), 0.0)

    def _gated(self, x: tc.Array, gate: tc.Array | None, row: Any, at: Any, count: int) -> tc.Tile:
        value: tc.Tile = x.load((row, self.channel, at), (1, 1, count)).to(self.kind)
        if gate is None:
            return value
        return value * gate.load((row, self.channel, at), (1, 1, count)).to(self.kind)

    def gathered(
        self, x: tc.Array, gate: tc.Array | None, row: int, places: tc.Tile, more: Continued | None
    ) -> Any:
        """x * gate of one row at these places."""
        value = self._gathered(x, gate, row, places)
        if more is None:
            return value
        inside = (places >= more.first) & (places < more.last)
        return value + tc.where(inside, self._gathered(x, gate, row, places - more.shift), 0.0)

    def _gathered(self, x: tc.Array, gate: tc.Array | None, row: int, places: tc.Tile) -> Any:
        value = x.gather(2 * self.i + row, self.channel, places, other=0).to(self.kind)
        if gate is None:
            return value
        return value * gate.gather(2 * self.i + row, self.channel, places, other=0).to(self.kind)

    def scattered(
        self, y: tc.Array, value: tc.Tile, gate: tc.Array | None, row: int, places: tc.Tile
    ) -> None:
        """y = value * gate of one row at these places, as far as y goes."""
        at = (2 * self.i + row, self.channel, places)
        if gate is not None:
            value = value * gate.gather(*at, other=0).to(self.kind)
        y.scatter(at, value.to(y.dtype))

    def write(self, y: tc.Array, z: Complex, gate: tc.Array | None, at: Any) -> None:
        """y = z * gate from `at` on, as far as y goes."""
        for i, part in enumerate(z):
            place = (2 * self.i + i, self.channel, at)
            value = part.reshape(1, 1, part.size)
            if gate is not None:
                value = value * gate.load(place, value.shape).to(self.kind)
            y.store(place, value.to(y.dtype))


class Taps(NamedTuple):
    """A channel of a kernel k [H, taps] over a period: k_reverse[s] acts on what comes `apart` + s later."""

    k: tc.Array
    k_reverse: tc.Array | None
    channel: Any
    apart: int
    kind: DType

    def read(self, plan: Any, at: Any, count: int) -> Complex:
        """Places `at` and on, [1, count], divided by the period."""
        value = self.k.load((self.channel, at), (1, count)).to(self.kind)
        if self.k_reverse is not None:
            place = at + tc.arange(count)
            later = tc.where(place == 0, 0, plan.period - place) - self.apart
            value = value + self.k_reverse.gather(self.channel, later[None, :], other=0).to(self.kind)
        return Complex(value * (1 / plan.period), tc.zeros((1, count), self.kind))
