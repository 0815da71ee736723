"""Casts, codes and values: every pair of dtypes, derived from the numbers that describe them.

    cast(w, "%x", f32, f4e2m1)        the code (i8) of the nearest number, ties to even, saturating

All of it is bit for bit `tilec.ir.codec.cast`. A float on its way to 16 bits or fewer passes through an f32:
exactly, or rounded to odd, so that the last rounding sees on which side of a tie it lies. From there to a
code it is integer arithmetic without tables or branches. To decode, a code's exponent and mantissa are moved
into an f32's place, and one multiplication sets the bias right, subnormals included (on a CPU an addition):
    f6e3m2  0b0_011_01  ->  bits 0b011_01 << 21  =  2^(3 - 127) * 1.25,  times 2^(127 - 3)  =  1.25
"""

from __future__ import annotations

from tilec.backends.writer import Writer, held, is_code
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType

F32_BIAS, F32_MANTISSA, F32_MAGNITUDE = 127, 23, 0x7FFFFFFF


def cast(w: Writer, x: str, src: DType, dst: DType) -> str:
    """`x`, held as `src`, as `dst`: rounded, saturated or wrapped as DESIGN says."""
    if src == dst:
        return x
    if dst.is_bool:
        return to_bool(w, x, src)
    if src.is_bool:
        return w.select(x, w.held(dst), w.constant(1, dst), w.constant(0, dst))
    if dst.is_integer:
        return _between_integers(w, x, src, dst) if src.is_integer else _to_integer(w, x, src, dst)
    return _integer_to_float(w, x, src, dst) if src.is_integer else _between_floats(w, x, src, dst)


def to_bool(w: Writer, x: str, src: DType) -> str:
    """True for everything but zero, NaN too."""
    if src.is_integer:
        return w.compare("ne", w.held(src), x, w.integer(0, w.held(src)))
    value, element = widened(w, x, src)
    return w.compare("une", element, value, w.real(0.0, element))


# Integers.


def wrapped(w: Writer, x: str, dtype: DType) -> str:
    """The low bits of what an operation left in a register, extended from the type's own width."""
    element = w.held(dtype)
    spare = int(element[1:]) - dtype.bits
    if spare == 0:
        return x
    if not dtype.is_signed:
        return w.op("and", element, x, w.integer(dtype.code_mask, element))
    by = w.integer(spare, element)
    return w.op("ashr", element, w.op("shl", element, x, by), by)


def resized(w: Writer, x: str, source: str, into: str, is_signed: bool) -> str:
    """An integer register of another width."""
    narrower = int(source[1:]) > int(into[1:])
    return w.convert("trunc" if narrower else "sext" if is_signed else "zext", source, x, into)


def _between_integers(w: Writer, x: str, src: DType, dst: DType) -> str:
    return wrapped(w, resized(w, x, w.held(src), w.held(dst), src.is_signed), dst)


def _to_integer(w: Writer, x: str, src: DType, dst: DType) -> str:
    """Truncated; out of range, the nearest end; NaN gives 0."""
    value, element = widened(w, x, src)
    if w.arch == "x86" and w.width > 1 and dst.bits <= 16:
        return resized(w, _in_range(w, value, element, dst), "i32", w.held(dst), dst.is_signed)
    machine = "i64" if dst.bits == 64 else "i32"
    sign = "s" if dst.is_signed else "u"
    name = f"llvm.fpto{sign}i.sat.{w.mangled(machine)}.{w.mangled(element)}"
    w.declare(name, w.vector(machine), w.vector(element))
    whole = w.let(f"call {w.vector(machine)} @{name}({w.vector(element)} {value})")
    if dst.bits < 32:
        whole = w.call(f"llvm.{sign}min", machine, whole, w.integer(int(dst.max), machine))
    if dst.bits < 32 and dst.is_signed:
        whole = w.call("llvm.smax", machine, whole, w.integer(int(dst.min), machine))
    return resized(w, whole, machine, w.held(dst), dst.is_signed)


def _in_range(w: Writer, x: str, element: str, dst: DType) -> str:
    """The same for vectors of a machine whose conversion does not saturate, and small ranges, of which a
    float has both ends: LLVM would take vectors apart.
    """
    low, high = (w.real(float(end), element) for end in (dst.min, dst.max))
    above = w.select(w.compare("ogt", element, x, low), element, x, low)
    inside = w.select(w.compare("olt", element, above, high), element, above, high)
    number = w.select(w.compare("ord", element, x, x), element, inside, w.real(0.0, element))
    return w.convert("fptosi", element, number, "i32")


def _integer_to_float(w: Writer, x: str, src: DType, dst: DType) -> str:
    """f32 and f64 round once; f16 overflows where f32 is not exact; others take f32 rounded to odd."""
    name = "sitofp" if src.is_signed else "uitofp"
    exact = held(dst) == "half" and src.bits <= dst.mantissa and w.native_half
    if dst.mantissa >= F32_MANTISSA or exact:
        return w.convert(name, w.held(src), x, w.held(dst))
    if src.bits <= 16 or held(dst) == "half":
        return narrowed(w, w.convert(name, w.held(src), x, "float"), dst)
    if src.bits == 32:
        return narrowed(w, odd_float(w, w.convert(name, "i32", x, "double")), dst)
    return narrowed(w, _odd_from_64(w, x, src), dst)


def _odd_from_64(w: Writer, x: str, src: DType) -> str:
    """A 64-bit integer as f32, rounded to odd: two halves exact in f64, their sum rounded to odd."""
    low = w.op("and", "i64", x, w.integer(2**32 - 1, "i64"))
    high = w.op("ashr" if src.is_signed else "lshr", "i64", x, w.integer(32, "i64"))
    name = "sitofp" if src.is_signed else "uitofp"
    top = w.op("fmul", "double", w.convert(name, "i64", high, "double"), w.real(2.0**32, "double"))
    return odd_float(w, odd_sum(w, top, w.convert("uitofp", "i64", low, "double"), "double"))


# Rounding to odd.


def odd_sum(w: Writer, a: str, b: str, element: str) -> str:
    """a + b rounded to odd: Knuth's two_sum gives the error, which says where the odd neighbour lies."""
    total = w.op("fadd", element, a, b)
    other = w.op("fsub", element, total, a)
    lost_a = w.op("fsub", element, a, w.op("fsub", element, total, other))
    error = w.op("fadd", element, lost_a, w.op("fsub", element, b, other))
    zero = w.real(0.0, element)
    outward = w.op("xor", "i1", *(w.compare("olt", element, x, zero) for x in (total, error)))
    inexact = w.compare("one", element, error, zero)  # also false where the sum overflowed: the error is NaN
    return _stepped(w, total, element, inexact, w.op("xor", "i1", outward, w.integer(1, "i1")))


def odd_float(w: Writer, x: str) -> str:
    """An f64 as f32, rounded to odd."""
    total = w.convert("fptrunc", "double", x, "float")
    back = w.convert("fpext", "float", total, "double")
    size, size_back = (w.call("llvm.fabs", "double", v) for v in (x, back))
    finite = w.compare("one", "double", size_back, w.real(float("inf"), "double"))
    inexact = w.op("and", "i1", finite, w.compare("one", "double", size, size_back))
    return _stepped(w, total, "float", inexact, w.compare("ogt", "double", size, size_back))


def _stepped(w: Writer, total: str, element: str, inexact: str, outward: str) -> str:
    """`total`, or, where it is inexact and even, its neighbour away from zero or towards it."""
    word = "i32" if element == "float" else "i64"
    bits = w.convert("bitcast", element, total, word)
    step = w.select(outward, word, w.integer(1, word), w.integer(-1, word))
    even = w.op("xor", word, w.op("and", word, bits, w.integer(1, word)), w.integer(1, word))
    moved = w.op("add", word, bits, w.op("mul", word, step, even))
    return w.convert("bitcast", word, w.select(inexact, word, moved, bits), element)


# Floats.


def widened(w: Writer, x: str, src: DType) -> tuple[str, str]:
    """A float as f32, or f64 if it is one; exact. Gives the register and its type."""
    if is_code(src):
        return decoded(w, x, src), "float"
    if held(src) == "half" or (held(src) == "bfloat" and w.arch == "ptx"):
        return w.convert("fpext", w.held(src), x, "float"), "float"
    return (_from_bf16(w, x), "float") if held(src) == "bfloat" else (x, w.held(src))


def _from_bf16(w: Writer, x: str) -> str:
    bits = w.convert("zext", "i16", x, "i32")
    return w.convert("bitcast", "i32", w.op("shl", "i32", bits, w.integer(16, "i32")), "float")


def narrowed(w: Writer, x: str, dst: DType) -> str:
    """An f32, exact or rounded to odd, rounded to nearest as `dst`; the f32 itself is f32 already."""
    if is_code(dst):
        return encoded(w, x, dst)
    if held(dst) == "half":
        return w.convert("fptrunc", "float", x, "half")
    return x if dst.mantissa >= F32_MANTISSA else _shortened(w, x, dst)


def _between_floats(w: Writer, x: str, src: DType, dst: DType) -> str:
    value, element = widened(w, x, src)
    if dst.mantissa > F32_MANTISSA:
        return w.convert("fpext", element, value, w.held(dst))
    if element == "double":
        return (
            w.convert("fptrunc", "double", value, "float")
            if dst == dt.f32
            else narrowed(w, odd_float(w, value), dst)
        )
    return narrowed(w, value, dst)


def _shortened(w: Writer, x: str, dst: DType) -> str:
    """bf16 and tf32 are f32 with fewer mantissa bits: rounded by an integer addition, NaN kept apart.

    GPUs have an instruction for bf16; the CPU's takes subnormals for zero.
    """
    if w.arch == "ptx" and held(dst) == "bfloat":
        return w.convert("fptrunc", "float", x, "bfloat")
    drop = F32_MANTISSA - dst.mantissa
    bits = w.convert("bitcast", "float", x, "i32")
    quiet = w.op("or", "i32", bits, w.integer(1 << F32_MANTISSA - 1, "i32"))
    kept = w.select(w.compare("uno", "float", x, x), "i32", quiet, _rounded_up(w, bits, drop))
    if held(dst) == "float":
        return w.convert("bitcast", "i32", w.op("and", "i32", kept, w.integer(-(1 << drop), "i32")), "float")
    return w.convert("trunc", "i32", w.op("lshr", "i32", kept, w.integer(16, "i32")), "i16")


def _rounded_up(w: Writer, bits: str, drop: int) -> str:
    """bits plus just under half of what will be dropped, or half where the last digit kept is odd (without
    mantissa bits that is the leading one).
    """
    if drop == F32_MANTISSA:
        return w.op("add", "i32", bits, w.integer(1 << drop - 1, "i32"))
    last = w.op("and", "i32", w.op("lshr", "i32", bits, w.integer(drop, "i32")), w.integer(1, "i32"))
    return w.op("add", "i32", w.op("add", "i32", bits, w.integer((1 << drop - 1) - 1, "i32")), last)


# Codes of 8 bits and fewer.


def decoded(w: Writer, code: str, src: DType) -> str:
    """The f32 that a code (an i8) stands for."""
    code = w.convert("zext", "i8", code, "i32")
    if not src.has_subnormals:
        return _decoded_scale(w, code, src)
    size = w.op("and", "i32", code, w.integer(src.code_mask >> 1, "i32"))
    bits = w.op("shl", "i32", size, w.integer(F32_MANTISSA - src.mantissa, "i32"))
    magnitude = _rescaled(w, bits, src) if w.arch == "ptx" else _rebiased(w, bits, src)
    if src.has_infinity:
        infinite = w.compare("eq", "i32", size, w.integer(src.infinity_code, "i32"))
        magnitude = w.select(infinite, "i32", w.integer(0x7F800000, "i32"), magnitude)
    if src.has_nan:
        nan = w.compare("ugt", "i32", size, w.integer(src.max_code + src.has_infinity, "i32"))
        magnitude = w.select(nan, "i32", w.integer(0x7FC00000, "i32"), magnitude)
    sign = w.op("and", "i32", code, w.integer(src.sign_code, "i32"))
    sign = w.op("shl", "i32", sign, w.integer(32 - src.bits, "i32"))
    return w.convert("bitcast", "i32", w.op("or", "i32", magnitude, sign), "float")


def _rescaled(w: Writer, bits: str, src: DType) -> str:
    """The bias set right by a multiplication, which GPUs do at full speed on subnormal numbers too."""
    unbiased = w.convert("bitcast", "i32", bits, "float")
    value = w.op("fmul", "float", unbiased, w.real(2.0 ** (F32_BIAS - src.bias)))
    return w.convert("bitcast", "float", value, "i32")


def _rebiased(w: Writer, bits: str, src: DType) -> str:
    """The bias set right by an addition; CPUs take long for a subnormal operand. Where the exponent
    is 0 the number reads 2^(1 - bias) too large once its leading one is taken for real.
    """
    normal = w.op("add", "i32", bits, w.integer((F32_BIAS - src.bias) << F32_MANTISSA, "i32"))
    above = w.op("add", "i32", normal, w.integer(1 << F32_MANTISSA, "i32"))
    leading = w.real(2.0 ** (1 - src.bias))
    below = w.op("fsub", "float", w.convert("bitcast", "i32", above, "float"), leading)
    small = w.compare("ult", "i32", bits, w.integer(1 << F32_MANTISSA, "i32"))
    return w.select(small, "i32", w.convert("bitcast", "float", below, "i32"), normal)


def _decoded_scale(w: Writer, code: str, src: DType) -> str:
    """Exponent alone: f32's own, but for its least value, which is subnormal there, and NaN."""
    bits = w.op("shl", "i32", code, w.integer(F32_MANTISSA, "i32"))
    least = w.compare("eq", "i32", code, w.integer(0, "i32"))
    bits = w.select(least, "i32", w.integer(1 << F32_MANTISSA - 1, "i32"), bits)
    nan = w.compare("eq", "i32", code, w.integer(src.nan_code, "i32"))
    return w.convert("bitcast", "i32", w.select(nan, "i32", w.integer(0x7FC00000, "i32"), bits), "float")


def encoded(w: Writer, x: str, dst: DType) -> str:
    """The code (an i8) of the nearest number to an f32 that is exact or rounded to odd."""
    bits = w.convert("bitcast", "float", x, "i32")
    size = w.op("and", "i32", bits, w.integer(F32_MAGNITUDE, "i32"))
    code = _encoded_magnitude(w, size, dst) if dst.has_subnormals else _encoded_scale(w, bits, size, dst)
    code = w.call("llvm.smin", "i32", code, w.integer(dst.max_code, "i32"))
    nan = w.compare("ugt", "i32", size, w.integer(0x7F800000, "i32"))
    if dst.is_signed:
        sign = w.op("and", "i32", w.op("lshr", "i32", bits, w.integer(32 - dst.bits, "i32")),
                    w.integer(dst.sign_code, "i32"))  # fmt: skip
        code = w.op("or", "i32", code, sign)
    code = w.select(nan, "i32", w.integer(dst.nan_code if dst.has_nan else dst.max_code, "i32"), code)
    return w.convert("trunc", "i32", code, "i8")


def _encoded_magnitude(w: Writer, size: str, dst: DType) -> str:
    """Normal numbers by rounding the bits and moving the bias; below, adding 2^23 units rounds to units."""
    drop = F32_MANTISSA - dst.mantissa
    top = w.op("lshr", "i32", _rounded_up(w, size, drop), w.integer(drop, "i32"))
    normal = w.op("sub", "i32", top, w.integer((F32_BIAS - dst.bias) << dst.mantissa, "i32"))
    unit = 2.0 ** (1 - dst.bias - dst.mantissa)
    magic = codec.encode(2.0**F32_MANTISSA * unit, dt.f32).item()
    magnitude = w.convert("bitcast", "i32", size, "float")
    moved = w.convert(
        "bitcast", "float", w.op("fadd", "float", magnitude, w.real(2.0**F32_MANTISSA * unit)), "i32"
    )
    subnormal = w.op("sub", "i32", moved, w.integer(magic, "i32"))
    small = w.compare("olt", "float", magnitude, w.real(dst.smallest_normal))
    return w.select(small, "i32", subnormal, normal)


def _encoded_scale(w: Writer, bits: str, size: str, dst: DType) -> str:
    """The nearest power of two; f32's subnormals from 2^-127 on by comparison, 0 for anything smaller."""
    rounded = w.op("lshr", "i32", _rounded_up(w, size, F32_MANTISSA), w.integer(F32_MANTISSA, "i32"))
    normal = w.compare("uge", "i32", size, w.integer(1 << F32_MANTISSA, "i32"))
    above = w.compare("uge", "i32", size, w.integer(3 << F32_MANTISSA - 2, "i32"))
    code = w.select(normal, "i32", rounded, w.convert("zext", "i1", above, "i32"))
    negative = w.compare("slt", "i32", bits, w.integer(0, "i32"))
    return w.select(negative, "i32", w.integer(0, "i32"), code)


# Codes and memory.


def to_code(w: Writer, x: str, dtype: DType) -> tuple[str, str]:
    """The code of a held value, zero-extended in an integer register; gives it and its type."""
    element = w.held(dtype)
    if dtype.is_bool:
        return w.convert("zext", "i1", x, "i8"), "i8"
    if dtype.is_float and not is_code(dtype):
        return w.convert("bitcast", element, x, f"i{dtype.bits}"), f"i{dtype.bits}"
    if dtype.is_integer and dtype.is_signed and dtype.bits < 8:
        return w.op("and", element, x, w.integer(dtype.code_mask, element)), element
    return x, element


def from_code(w: Writer, code: str, dtype: DType) -> str:
    """The held value of a code in an integer register (8 bits, or the type's own where it has more)."""
    if dtype.is_bool:
        return w.compare("ne", "i8", code, w.integer(0, "i8"))
    if dtype.is_integer:
        return wrapped(w, code, dtype)
    element = f"i{max(8, dtype.bits)}"
    if dtype.unused or dtype.bits < 8:
        kept = dtype.code_mask >> dtype.unused << dtype.unused
        code = w.op("and", element, code, w.integer(kept, element))
    return w.convert("bitcast", element, code, w.held(dtype))


def stored(dtype: DType) -> str:
    """LLVM's type of one element in memory (unpacked)."""
    return "i8" if dtype.is_bool else held(dtype)


def from_memory(w: Writer, x: str, dtype: DType) -> str:
    """What a load gave, as it is held. A tf32 in memory is any f32, whose low bits mean nothing, as they mean
    nothing to the matrix units.
    """
    if dtype.unused:
        return from_code(w, w.convert("bitcast", held(dtype), x, f"i{dtype.bits}"), dtype)
    return x if held(dtype) in ("half", "bfloat", "float", "double") else from_code(w, x, dtype)


def to_memory(w: Writer, x: str, dtype: DType) -> str:
    """A held value as it is stored: integers as themselves, bool as a byte, small floats as codes."""
    return w.convert("zext", "i1", x, "i8") if dtype.is_bool else x
