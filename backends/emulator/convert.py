"""cvt between every pair of types, packed and small floats included, and cvt.pack.

cvt.rn.f16.f32 h, f      cvt.rzi.s32.f32 r, f      cvt.rn.satfinite.e4m3x2.f32 d, high, low
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import exact
from tilec.backends.emulator.decode import Form, Step, full
from tilec.backends.emulator.floating import Kind
from tilec.backends.emulator.ptx_types import Sel, bits, numpy_type
from tilec.backends.emulator.rounding import FORMATS, TF32, decode, encode, to_bf16

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

WIDE = ("f16", "bf16", "f32", "f64")
SMALL_PAIRS = ("e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2", "e2m1x2", "ue8m0x2")
TO_INTEGER: dict[str, Callable[[Any], Any]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def cvt(f: Form) -> Step:
    if f.take("pack"):
        return cvt_pack(f)
    mode = f.take("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")
    relu, finite, sat, ftz = (bool(f.take(n)) for n in ("relu", "satfinite", "sat", "ftz"))
    f.take("scaled::n2::ue8m0") and f.error("scaled conversions are not known to the emulator")
    to, source = f.type(), f.type()
    if to == "tf32":
        return to_tf32(f, mode or "rn", relu, finite)
    if to in SMALL_PAIRS:
        return to_small(f, to, source, mode or "rn", relu)
    if source in SMALL_PAIRS:
        return from_small(f, to, source, relu)
    if to.endswith("x2"):
        return to_pair(f, Kind(to), mode or "rn", relu, finite)
    if to in WIDE and source in WIDE:
        return float_to_float(f, Kind(to), Kind(source), mode, (relu, finite, sat, ftz))
    if to in WIDE:
        return integer_to_float(f, Kind(to), source, mode or "rn", sat)
    if source in WIDE:
        return float_to_integer(f, to, Kind(source), mode, ftz)
    return integer_to_integer(f, to, source, sat)


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def integer_to_integer(f: Form, to: str, source: str, sat: bool) -> Step:
    f.count(2)
    put, get, dtype = f.target(0, to), f.source(1, source), numpy_type(to)
    low, high = limits(dtype)

    def run(m: Machine, s: Sel) -> None:
        x = np.asarray(get(m, s))
        if sat:
            least, most = limits(x.dtype)
            x = np.clip(x, x.dtype.type(max(low, least)), x.dtype.type(min(high, most)))
        put(m, s, x.astype(dtype))

    return Step(run)


def float_to_integer(f: Form, to: str, kind: Kind, mode: str | None, ftz: bool) -> Step:
    """Saturates; NaN gives 0, or the top bit alone where the source is f64 or the result has 64 bits (the
    ISA)."""
    whole = TO_INTEGER[mode or f.error("a conversion from float to integer needs .rni .rzi .rmi or .rpi")]
    put, get, dtype = f.target(0, to), f.source(1, kind.raw), numpy_type(to)
    low, high = limits(dtype)
    wide = kind.base == "f64" or dtype.itemsize == 8
    nan = np.array(1 << (dtype.itemsize * 8 - 1) if wide else 0, np.uint64).astype(dtype)

    def run(m: Machine, s: Sel) -> None:
        x = kind.load(full(get(m, s), s))
        x = whole((kind.flush(x) if ftz else x).astype(np.float64))
        above, below = x >= float(high), x <= float(low)
        inside = np.where(above | below | (x != x), 0.0, x).astype(dtype)
        found = np.where(above, dtype.type(high), np.where(below, dtype.type(low), inside))
        put(m, s, np.where(x != x, nan, found))

    return Step(run)


def integer_to_float(f: Form, kind: Kind, source: str, mode: str, sat: bool) -> Step:
    put, get = f.target(0, kind.raw), f.source(1, source)
    signed = numpy_type(source).kind == "i"

    def run(m: Machine, s: Sel) -> None:
        x = full(get(m, s), s)
        if sat:
            x = np.clip(x, 0, 1)
        put(m, s, kind.store(rounded_integer(x, kind, mode, signed)))

    return Step(run)


def rounded_integer(x: Any, kind: Kind, mode: str, signed: bool) -> Any:
    """An integer to a float type in a mode: through float64 rounded to odd, or with its error."""
    near = x.astype(np.float64)
    if x.dtype.itemsize < 8:
        return near if kind.base == "f64" else kind.round(near, mode)
    top = 2.0**63 if signed else 2.0**64
    capped = np.where(near >= top, 0.0, near).astype(x.dtype)
    error = np.where(near >= top, -1.0, np.where(x >= capped, 1.0, -1.0) * (x != capped))
    return (
        exact.directed(near, error, mode) if kind.base == "f64" else kind.round(exact.odd(near, error), mode)
    )


def float_to_float(
    f: Form, to: Kind, source: Kind, mode: str | None, flags: tuple[bool, bool, bool, bool]
) -> Step:
    relu, finite, sat, ftz = flags
    f.count(2)
    put, get = f.target(0, to.raw), f.source(1, source.raw)
    ftz = ftz and "f32" in (to.base, source.base)

    def run(m: Machine, s: Sel) -> None:
        x = source.load(full(get(m, s), s))
        if ftz and source.base == "f32":
            x = source.flush(x)
        x = to_value(x, to, mode or "rn")
        x = limited(x, to, relu, finite, sat)
        put(m, s, to.store(to.flush(x) if ftz and to.base == "f32" else x))

    return Step(run)


def to_value(x: Any, to: Kind, mode: str) -> Any:
    """x rounded to the values of `to`; the integer modes round to whole numbers first."""
    if mode in TO_INTEGER:
        whole = TO_INTEGER[mode](x.astype(np.float64))
        return whole if to.base == "f64" else to.round(whole, "rn")
    if to.base == "f64":
        return x.astype(np.float64)
    if mode == "rna":
        mode = "rn"
    if mode == "rn":
        return x if to.base == "bf16" else x.astype(np.float16 if to.base == "f16" else np.float32)
    return to.round(x.astype(np.float64), mode)


def limited(x: Any, to: Kind, relu: bool, finite: bool, sat: bool) -> Any:
    if sat:
        return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))
    if relu:
        x = np.where(x < 0, x.dtype.type(0), np.where(x == 0, np.abs(x), x))
    if finite:
        largest = (
            FORMATS[to.base].largest
            if to.base in FORMATS
            else float(np.finfo(to.base.replace("f", "float")).max)
        )
        x = np.where(np.abs(x) > largest, np.copysign(x.dtype.type(largest), x), x)
    return x


def to_pair(f: Form, to: Kind, mode: str, relu: bool, finite: bool) -> Step:
    """cvt.rn.f16x2.f32 d, a, b: a in the upper half."""
    if f.count(3, 4) == 4:
        f.error("stochastic rounding is not known to the emulator")
    put, high, low = f.target(0, "b32"), f.source(1, "f32"), f.source(2, "f32")

    def half(x: Any) -> Any:
        x = limited(to_value(x, to, mode), to, relu, finite, False)
        raw = to_bf16(x) if to.base == "bf16" else to_f16_bits(x)
        return raw.astype(np.uint32)

    def run(m: Machine, s: Sel) -> None:
        put(m, s, (half(full(high(m, s), s)) << np.uint32(16)) | half(full(low(m, s), s)))

    return Step(run)


def to_f16_bits(x: Any) -> Any:
    raw = x.view(np.uint16)
    return np.where(x != x, np.uint16(0x7FFF), raw)


def to_tf32(f: Form, mode: str, relu: bool, finite: bool) -> Step:
    f.count(2)
    put, get = f.target(0, "b32"), f.source(1, "f32")

    def run(m: Machine, s: Sel) -> None:
        x = full(get(m, s), s)
        code = encode(np.where(x < 0, 0, np.abs(x)) if relu else x, TF32, mode, finite)
        put(m, s, np.where(x != x, np.uint32(0x7FFFFFFF), code << np.uint32(13)))

    return Step(run)


def to_small(f: Form, to: str, source: str, mode: str, relu: bool) -> Step:
    """Two values to two codes, the first operand in the upper half; f16x2 and bf16x2 give both at once."""
    name = to.removesuffix("x2")
    if source == "f32":
        f.count(3)
        gets, raw = [f.source(2, "f32"), f.source(1, "f32")], None
    else:
        f.count(2)
        gets, raw = [f.source(1, "b32")], Kind(source)
    put = f.target(0, "b8" if name == "e2m1" else "b16")

    def run(m: Machine, s: Sel) -> None:
        values = [full(get(m, s), s) for get in gets]
        if raw is not None:
            both = raw.load(values[0])
            values = [both[0::2], both[1::2]]
        low, high = (small_code(v, name, mode, relu) for v in values)
        put(m, s, low | (high << np.uint32(4 if name == "e2m1" else 8)))

    return Step(run)


def small_code(x: Any, name: str, mode: str, relu: bool) -> Any:
    x = np.asarray(x, np.float64)
    if name == "ue8m0":
        return scale_code(x, mode)
    if relu:
        x = np.where(x < 0, 0.0, np.where(x == 0, 0.0, x))
    return encode(x, FORMATS[name], mode, saturate=True)


def scale_code(x: Any, mode: str) -> Any:
    """ue8m0: a power of two, 2^(code - 127); NaN is 255; rounds towards zero or up."""
    mantissa, exponent = np.frexp(np.where(np.isfinite(x), np.abs(x), 1.0))
    power = np.where(mantissa == 0.5, exponent - 1, exponent - (0 if mode == "rp" else 1))
    code = np.where(x == 0, 0, np.clip(power + 127, 0, 254))
    return np.where(x != x, 255, np.where(np.isinf(x), 254, code)).astype(np.uint32)


def from_small(f: Form, to: str, source: str, relu: bool) -> Step:
    """Two codes to f16x2 (or bf16x2 for ue8m0): every value is exact there."""
    f.count(2)
    name = source.removesuffix("x2")
    width = 4 if name == "e2m1" else 8
    put, get, kind = f.target(0, "b32"), f.source(1, "b8" if width == 4 else "b16"), Kind(to)

    def value(code: Any) -> Any:
        if name == "ue8m0":
            return np.where(code == 255, np.nan, np.ldexp(1.0, code.astype(np.int64) - 127))
        x = decode(code, FORMATS[name])
        return np.where(x < 0, 0.0, x) if relu else x

    def run(m: Machine, s: Sel) -> None:
        codes = full(get(m, s), s).astype(np.uint32)
        low, high = codes & np.uint32((1 << width) - 1), codes >> np.uint32(width)
        both = np.stack([value(low), value(high & np.uint32((1 << width) - 1))], 1).reshape(-1)
        put(m, s, kind.store(both.astype(np.float32)))

    return Step(run)


def cvt_pack(f: Form) -> Step:
    """cvt.pack.sat.u8.s32.b32 d, a, b, c: the two saturated values above the low bits of c."""
    f.need("sat")
    f.left and f.left[0] in ("u4", "s4", "u2", "s2") and f.error(
        "cvt.pack to 4 or 2 bits is not known to the emulator"
    )
    to, _ = f.type("u8", "s8", "u16", "s16"), f.type("s32")
    f.take("b32")
    width = bits(to)
    put, a, b = f.target(0, "b32"), f.source(1, "s32"), f.source(2, "s32")
    c = f.source(3, "b32") if f.count(3, 4) == 4 else None
    low, high = limits(numpy_type(to))

    def run(m: Machine, s: Sel) -> None:
        x, y = (np.clip(g(m, s), low, high).astype(np.uint32) & np.uint32((1 << width) - 1) for g in (a, b))
        rest = c(m, s) << np.uint32(2 * width) if c else np.uint32(0)
        put(m, s, rest | (x << np.uint32(width)) | y)

    return Step(run)


BUILDERS: dict[str, Callable[[Form], Step]] = {"cvt": cvt}
