"""log and log2, f32 and f64.

    x = 2^e * (1 + f),  1/sqrt(2) <= 1 + f < sqrt(2):    log x = e * ln 2 + f - f^2/2 + f^3 * P(f)
The split is integer arithmetic on the bits (after the Cephes library of S. L. Moshier); P is a minimax
polynomial.
"""

from __future__ import annotations

import math

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType
from tilec.ir.func import Value
from tilec.ir.spell import add, bits_of, cast, compare, float_of, fma, full, horner, mul, shl, shr, sub, where

Coefficients = tuple[float, ...]

LN2 = {  # in two parts
    dt.f32: (0.693145751953125, 1.42860682030941723e-6),
    dt.f64: (0.69314718036912381649, 1.90821492927058770002e-10),
}
LOG2_E = {  # in two parts
    dt.f32: (1.44269502162933349609, 1.92596299112661746887e-8),
    dt.f64: (1.44269504088896338700, 2.03552737409310331113e-17),
}

NATURAL: dict[DType, Coefficients] = {  # (log(1 + f) - f + f^2/2) / f^3
    dt.f32: (0.33333331694995036, -0.250008210790139079, 0.200012272498459843, -0.166233564555287061,
             0.142017549877170434, -0.131601886405486515, 0.12761583259736953, -0.0763447832377732868),
    dt.f64: (0.33333333333333143669, -0.24999999999987976026, 0.20000000000066616168, -0.16666666669825853838,
             0.14285714280092875543, -0.12499999691445636091, 0.11111111147475582724, -0.10000015206155338726,
             0.090909239316668421057, -0.083329135425212021829, 0.076915298215248517383,
             -0.071494394983894357523, 0.066845891096727699589, -0.061966784344360031914,
             0.056683775105841344606, -0.056777843226748273908, 0.065034921981721637902,
             -0.059817036179754546874, 0.026150931064753914733),
}  # fmt: skip

BINARY: dict[DType, Coefficients] = {  # (log2(1 + f) - f * log2 e) / f^2
    dt.f32: (-0.721347352316044076, 0.480898236618997692, -0.36069659809907156, 0.288567491965982936,
             -0.239618400030510718, 0.204600373157333663, -0.19105590668637071, 0.18617231429228375,
             -0.109959889566872246),
    dt.f64: (-0.7213475204444822517, 0.48089834696298338726, -0.36067376022187909291, 0.28853900817902195462,
             -0.24044917354913168121, 0.2060992914676476665, -0.18033687440583312097, 0.16029944881285987686,
             -0.14426976287371759334, 0.13115435938725245326, -0.12021781718758712084, 0.11096392518035644207,
             -0.10315179310744171288, 0.096457632433723582034, -0.089365778897370073785,
             0.081641807142121811001, -0.081918053461408878882, 0.094200994782099847769,
             -0.086649027330101148177, 0.03776066666824165094),
}  # fmt: skip


def log(x: Value) -> Value:
    """The natural logarithm; at most 1 ulp."""
    e, f = _split(x)
    square, (high, low) = mul(f, f), LN2[x.tile.dtype]
    tail = fma(horner(f, NATURAL[x.tile.dtype]), mul(square, f), mul(e, low))
    return _special(x, fma(e, high, add(fma(square, -0.5, tail), f)))


def log2(x: Value) -> Value:
    """The logarithm to base 2, exact for powers of two; at most 1 ulp."""
    e, f = _split(x)
    high, low = LOG2_E[x.tile.dtype]
    tail = fma(f, low, mul(horner(f, BINARY[x.tile.dtype]), mul(f, f)))
    return _special(x, add(e, fma(f, high, tail)))


def _split(x: Value) -> tuple[Value, Value]:
    """e and f with x = 2^e * (1 + f); subnormal numbers are scaled first."""
    dtype = x.tile.dtype
    width = dtype.mantissa
    tiny = compare("lt", x, dtype.smallest_normal)
    bits = bits_of(where(tiny, mul(x, 2.0 ** (width + 1)), x))
    root = int(dtype.reference.type(math.sqrt(0.5)).view(dtype.code))
    e = shr(sub(bits, root), width)
    f = sub(float_of(sub(bits, shl(e, width)), dtype), 1.0)
    return add(cast(e, dtype), where(tiny, -(width + 1.0), full(0.0, x))), f


def _special(x: Value, y: Value) -> Value:
    """-inf at zero, NaN below and for NaN, inf at inf; else y."""
    y = where(compare("lt", x, math.inf), y, x)
    other = where(compare("eq", x, 0.0), -math.inf, full(math.nan, x))
    return where(compare("gt", x, 0.0), y, other)
