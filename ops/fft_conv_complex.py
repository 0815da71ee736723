"""Complex tiles, and discrete Fourier transforms of a few of them: what the transforms are made of.

    a, b = Complex(x, y), Complex(c, s)
    butterfly([a, b])                   [a + b, a - b]
None stands for a tile of zeros, so that what is known to be zero costs nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tilec as tc


class Complex(NamedTuple):
    """re + i im, of one dtype and shape."""

    re: Any
    im: Any

    def __add__(self, o: "Complex") -> "Complex":  # type: ignore[override]
        return Complex(self.re + o.re, self.im + o.im)

    def __sub__(self, o: "Complex") -> "Complex":
        return Complex(self.re - o.re, self.im - o.im)

    def __mul__(self, o: "Complex") -> "Complex":  # type: ignore[override]
        """Two of the four products are fused with the sums."""
        return Complex(
            tc.fma(self.re, o.re, -(self.im * o.im)),
            tc.fma(self.re, o.im, self.im * o.re),
        )

    def back(self, o: "Complex") -> "Complex":
        """Times the conjugate of o."""
        return Complex(
            tc.fma(self.re, o.re, self.im * o.im),
            tc.fma(self.im, o.re, -(self.re * o.im)),
        )

    def each(self, f: Callable[[Any], Any]) -> "Complex":
        """f of both parts: reshape, transpose, slice."""
        return Complex(f(self.re), f(self.im))

    def times(self, factor: Any) -> "Complex":
        """Times a real number."""
        return Complex(self.re * factor, self.im * factor)

    def to(self, dtype: Any) -> "Complex":
        """Both parts in another dtype."""
        return Complex(self.re.to(dtype), self.im.to(dtype))

    def scaled(self, factors: "Complex") -> "Complex":
        """Each part times a real number of its own."""
        return Complex(self.re * factors.re, self.im * factors.im)

    @property
    def conj(self) -> "Complex":
        return Complex(self.re, -self.im)

    @property
    def swapped(self) -> "Complex":
        """im + i re: a transform between two swaps is the inverse one, without its 1 / n."""
        return Complex(self.im, self.re)


Part = Complex | None


def butterfly(x: Sequence[Part]) -> list[Part]:
    """X[k] = sum over r of x[r] * exp(-2 pi i k r / n), n = len(x) a power of two: halves of even and odd r
    (Cooley and Tukey, 1965), as plain additions where the factors are 1, -i or at 45 degrees.
    """
    n = len(x)
    if n == 1:
        return list(x)
    even, odd = butterfly(x[0::2]), butterfly(x[1::2])
    turned = [_turned(z, k, n) for k, z in enumerate(odd)]
    pairs = list(zip(even, turned, strict=True))
    return [_sum(a, b) for a, b in pairs] + [_difference(a, b) for a, b in pairs]


def computed(parts: Sequence[Part]) -> list[Complex]:
    """The parts of a transform's result, none of which is known to be zero."""
    found = [z for z in parts if z is not None]
    assert len(found) == len(parts), "a butterfly of something has no empty part"
    return found


def _sum(a: Part, b: Part) -> Part:
    return b if a is None else a if b is None else a + b


def _difference(a: Part, b: Part) -> Part:
    if a is None:
        return None if b is None else b.each(lambda part: -part)
    return a if b is None else a - b


def _turned(z: Part, k: int, n: int) -> Part:
    """z * exp(-2 pi i k / n), for 0 <= k < n / 2."""
    if z is None or k == 0:
        return z
    if 4 * k == n:
        return Complex(z.im, -z.re)
    if 8 * k == n:
        return Complex(z.re + z.im, z.im - z.re).times(math.sqrt(0.5))
    if 8 * k == 3 * n:
        return Complex(z.im - z.re, -(z.re + z.im)).times(math.sqrt(0.5))
    c, s = math.cos(math.tau * k / n), -math.sin(math.tau * k / n)
    return Complex(tc.fma(z.re, c, z.im * -s), tc.fma(z.re, s, z.im * c))


def unit(shape: tuple[int, ...], turns: Callable[..., Any], period: int, dtype: Any) -> Complex:
    """exp(-2 pi i turns / period) for whole `turns` of the indices: a constant, made in float64."""
    full = math.tau / period
    re = tc.from_function(shape, lambda *at: tc.cos((turns(*at) % period) * full))
    im = tc.from_function(shape, lambda *at: -tc.sin((turns(*at) % period) * full))
    return Complex(re.to(dtype), im.to(dtype))
