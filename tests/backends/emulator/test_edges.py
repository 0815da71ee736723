"""Corners of the ISA that compilers seldom reach: operands of each lane, atomics on halves, short copies.

Each against a few lines of Python over single lanes, written from the ISA's text.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from tilec.ir.errors import TilecError

RNG = np.random.default_rng


def shuffle(mode, values, b, c):
    """The ISA's pseudocode; b and c are each lane's own."""
    found = []
    for lane, (bval, word) in enumerate(zip((b & 31).tolist(), c.tolist(), strict=True)):
        clamp, segment = word & 31, word >> 8 & 31
        most, least = lane & segment | clamp & ~segment, lane & segment
        j = {"up": lane - bval, "down": lane + bval, "bfly": lane ^ bval, "idx": least | bval & ~segment}[
            mode
        ]
        inside = j >= most if mode == "up" else j <= most
        found.append((int(values[j if inside else lane]), inside))
    return found


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles_with_operands_of_each_lane(apply, mode):
    rng = RNG(0)
    for trial in range(12):
        a = rng.integers(0, 1 << 32, 32, dtype=np.uint32)
        b = rng.integers(0, 1 << 32 if trial % 2 else 34, 32, dtype=np.uint32)
        c = rng.integers(0, 1 << 13, 32, dtype=np.uint32) & np.uint32(0x1F1F)
        text = f"{{{{ .reg .pred p; shfl.sync.{mode}.b32 {{d}}|p, {{a}}, {{b}}, {{c}}, -1; {{}} }}}}"
        words = {"a": ("b32", a), "b": ("b32", b), "c": ("b32", c)}
        expected = shuffle(mode, a, b, c)
        assert apply(text.replace("{}", ""), "b32", **words).tolist() == [x for x, _ in expected]
        inside = apply(text.replace("{}", "selp.b32 {d}, 1, 0, p;"), "b32", **words)
        assert inside.tolist() == [int(ok) for _, ok in expected]


@pytest.mark.parametrize("size", [4, 8, 16])
def test_short_copies(launch, size):
    """Each lane takes another number of bytes; the rest are zeros. Where it takes none nothing is read."""
    x = RNG(1).integers(1, 256, 32 * size, dtype=np.uint8)
    taken, out = np.arange(32, dtype=np.uint32) % (size + 1), np.ones(32 * size, np.uint8)
    body = f"""
        .shared .align 16 .b8 s[{32 * size}]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, {size}, %a0;
        mad.wide.u32 %a2, %r0, {size}, %p0; mad.wide.u32 %a3, %r0, 4, %p1; ld.global.u32 %r1, [%a3];
        setp.eq.u32 %q0, %r1, 0; @%q0 mov.b64 %a2, 16;
        {{copy}} cp.async.wait_all; mad.wide.u32 %a4, %r0, {size}, %p2; mov.u32 %r2, 0;
        next: ld.shared.u8 %r3, [%a1]; st.global.u8 [%a4], %r3; add.s64 %a1, %a1, 1; add.s64 %a4, %a4, 1;
        add.u32 %r2, %r2, 1; setp.lt.u32 %q1, %r2, {size}; @%q1 bra next;"""
    by_size = f"cp.async.{'cg' if size == 16 else 'ca'}.shared.global [%a1], [%a2], {size}, %r1;"
    launch(body.format(copy=by_size), (x, taken, out)).raise_if_any()
    rows, amount = x.reshape(32, size), taken[:, None]
    np.testing.assert_array_equal(out.reshape(32, size), np.where(np.arange(size) < amount, rows, 0))
    ignored = f"cp.async.ca.shared.global [%a1], [%a2], {size}, %q0;"
    launch(body.format(copy=ignored), (x, taken, out)).raise_if_any()
    np.testing.assert_array_equal(out.reshape(32, size), np.where(amount > 0, rows, 0))


def test_compare_and_swap_of_halves(launch):
    """Beside one that is changed, the other half of the word stays."""
    x, out = np.array([7, 9, 11, 13], np.uint16), np.zeros(32, np.uint16)
    body = """.reg .b16 %h<4>; mov.b16 %h1, 9; cvt.u16.u32 %h2, %r0; add.u16 %h2, %h2, 100;
        atom.global.cas.b16 %h3, [%p0+2], %h1, %h2; mad.wide.u32 %a0, %r0, 2, %p1;
        st.global.b16 [%a0], %h3;"""
    launch(body, (x, out)).raise_if_any()
    winner = int(x[1]) - 100
    assert x.tolist() == [7, 100 + winner, 11, 13] and 0 <= winner < 32
    assert out.tolist() == [9 if lane == winner else 100 + winner for lane in range(32)]


@pytest.mark.parametrize("kind", ["f16", "bf16", "f16x2", "bf16x2"])
@pytest.mark.parametrize("root", ["atom", "red"])
def test_sums_of_halves(launch, kind, root):
    """Small whole numbers: in any order the sums are exact."""
    dtype = np.float16 if kind.startswith("f16") else ml_dtypes.bfloat16
    count = 2 if kind.endswith("x2") else 1
    rng = RNG(2)
    x = rng.integers(-3, 4, (32, count)).astype(dtype)
    total = np.array([[5, 6]] * 4, dtype)[:, :count].copy()
    started = total.astype(np.float64)
    word = "b32 %r1" if count == 2 else "b16 %h1"
    d = ("%r2, " if count == 2 else "%h2, ") if root == "atom" else ""
    source = word.split()[1]
    body = f""".reg .b16 %h<4>; mad.wide.u32 %a0, %r0, {2 * count}, %p0; ld.global.{word}, [%a0];
        and.b32 %r3, %r0, 3; mad.wide.u32 %a1, %r3, {2 * count}, %p1;
        {root}.global.add.noftz.{kind} {d}[%a1], {source};"""
    launch(body, (x.view(np.uint16), total.view(np.uint16))).raise_if_any()
    expected = [started[k] + x[k::4].astype(np.float64).sum(0) for k in range(4)]
    np.testing.assert_array_equal(total.astype(np.float64), expected)


def test_vectors_of_sums(launch):
    x = RNG(3).integers(-9, 9, (32, 4)).astype(np.float32)
    total = np.ones(4, np.float32)
    body = """mad.wide.u32 %a0, %r0, 16, %p0; ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%a0];
        red.global.v4.f32.add [%p1], {%f0, %f1, %f2, %f3};"""
    launch(body, (x, total)).raise_if_any()
    np.testing.assert_array_equal(total, 1 + x.sum(0))


WIDE = {
    "min.s64": (np.int64, min), "max.u64": (np.uint64, max), "xor.b64": (np.uint64, lambda a, b: a ^ b),
    "add.u64": (np.uint64, lambda a, b: (a + b) % (1 << 64)), "exch.b64": (np.uint64, lambda a, b: b),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_wide_atomics(launch, name):
    """Each lane gets what another one left, from the first to the last."""
    dtype, function = WIDE[name]
    x = RNG(4).integers(0, 1 << 64, 33, dtype=np.uint64).view(dtype)
    given, place, before = x[:32].copy(), x[32:].copy(), x[32].item()
    body = f"""mad.wide.u32 %a0, %r0, 8, %p0; ld.global.b64 %a1, [%a0];
        atom.global.{name} %a2, [%p1], %a1; st.global.b64 [%a0], %a2;"""
    launch(body, (given, place)).raise_if_any()
    chain, value = [], before
    for lane in range(32):
        chain.append(value)
        value = function(value, x[lane].item())
    assert given.tolist() == chain and place[0].item() == value


def test_sums_of_doubles(launch):
    x, total = np.arange(32) + 0.5, np.zeros(1)
    body = """.reg .f64 %d<2>; mad.wide.u32 %a0, %r0, 8, %p0; ld.global.f64 %d0, [%a0];
        atom.global.add.f64 %d1, [%p1], %d0; st.global.f64 [%a0], %d1;"""
    launch(body, (x, total)).raise_if_any()
    assert total[0] == 512 and sorted(x) == x.tolist()


def test_subnormal_sums(launch):
    """atom.add.f32 flushes in global memory, not in shared memory."""
    tiny = np.float32(1e-40)
    x, out = np.array([tiny, tiny], np.float32), np.zeros(1, np.float32)
    launch(""".shared .align 4 .b8 s[4]; mov.u64 %a0, s; ld.global.f32 %f0, [%p0]; setp.eq.u32 %q0, %r0, 0;
           @%q0 st.shared.f32 [%a0], %f0; @%q0 atom.shared.add.f32 %f1, [%a0], %f0;
           @%q0 ld.shared.f32 %f2, [%a0]; @%q0 st.global.f32 [%p1], %f2;
           @%q0 red.global.add.f32 [%p0+4], %f0;""", (x, out)).raise_if_any()  # fmt: skip
    assert out[0] == tiny + tiny and x[1] == 0


INF, NAN = math.inf, math.nan
SUB, BIG = 1e-40, 1.7e38  # a subnormal, and something between 2^126 and 2^128
SPECIAL = [
    (
        "rcp.approx.ftz.f32",
        [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-INF, -0.0), (SUB, INF), (-SUB, -INF), (NAN, NAN)],
    ),
    ("rcp.rn.f32", [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-INF, -0.0)]),
    (
        "sqrt.approx.ftz.f32",
        [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (SUB, 0.0), (-SUB, -0.0)],
    ),
    (
        "rsqrt.approx.ftz.f32",
        [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-1.0, NAN), (-INF, NAN), (SUB, INF), (-SUB, -INF)],
    ),
    (
        "lg2.approx.ftz.f32",
        [(0.0, -INF), (-0.0, -INF), (INF, INF), (-1.0, NAN), (-INF, NAN), (SUB, -INF), (-SUB, -INF)],
    ),
    (
        "ex2.approx.ftz.f32",
        [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (SUB, 1.0), (-SUB, 1.0), (NAN, NAN)],
    ),
    (
        "sin.approx.ftz.f32",
        [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (SUB, 0.0), (-SUB, -0.0)],
    ),
    ("cos.approx.ftz.f32", [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (SUB, 1.0)]),
    ("tanh.approx.f32", [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN)]),
]


def alike(found, expected):
    if math.isnan(expected):
        return math.isnan(found)
    return found == expected and math.copysign(1, found) == math.copysign(1, expected)


@pytest.mark.parametrize(("name", "table"), SPECIAL, ids=[name for name, _ in SPECIAL])
def test_special_values(apply, name, table):
    a = np.array([x for x, _ in table], np.float32)
    found, expected = apply(f"{name} {{d}}, {{a}};", "f32", a=("f32", a)), [y for _, y in table]
    wrong = [(x, y, z) for x, y, z in zip(a, found, expected, strict=True) if not alike(float(y), z)]
    assert not wrong


def test_fast_division_by_huge_numbers(apply):
    """div.approx gives 0 where 2^126 < |b| < 2^128, or NaN of an infinity; div.full does not."""
    a = np.array([BIG, -BIG, INF, 1.0, BIG], np.float32)
    b = np.array([BIG, BIG, BIG, -BIG, 2.0**126], np.float32)
    found = apply("div.approx.f32 {d}, {a}, {b};", "f32", a=("f32", a), b=("f32", b))
    assert (np.abs(found[[0, 1, 3]]) == 0).all() and math.isnan(found[2])
    assert found[4] == a[4] / b[4]
    whole = apply("div.full.f32 {d}, {a}, {b};", "f32", a=("f32", a), b=("f32", b))
    np.testing.assert_array_equal(whole, a / b)


@pytest.mark.parametrize("operation", ["and", "or"])
def test_lop3_and_a_predicate(apply, operation):
    a, b, c = RNG(5).integers(0, 4, (3, 64), dtype=np.uint32)
    q = np.arange(64) % 2 == 0
    text = f"lop3.{operation}.b32 _|{{d}}, {{a}}, {{b}}, {{c}}, 0x80, {{q}};"
    found = apply(text, "pred", a=("b32", a), b=("b32", b), c=("b32", c), q=("pred", q))
    some = (a & b & c) != 0
    assert found.tolist() == (some & q if operation == "and" else some | q).tolist()


def test_every_lop3(apply, full):
    a, b, c = RNG(6).integers(0, 1 << 32, (3, 32), dtype=np.uint32)
    for table in range(0, 256, 1 if full else 23):
        found = apply(
            f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", "b32", a=("b32", a), b=("b32", b), c=("b32", c)
        )
        index = [[(x >> i & 1) << 2 | (y >> i & 1) << 1 | z >> i & 1 for i in range(32)]
                 for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]  # fmt: skip
        assert found.tolist() == [sum((table >> k & 1) << i for i, k in enumerate(row)) for row in index]


@pytest.mark.parametrize("to", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize(("mode", "whole"), [("rni", round), ("rzi", math.trunc), ("rmi", math.floor),
                                             ("rpi", math.ceil)])  # fmt: skip
def test_bf16_to_integers(apply, to, mode, whole):
    codes = np.concatenate([np.arange(0, 1 << 16, 97), [0x7F80, 0xFF80, 0x7FC0, 0x8000]]).astype(np.uint16)
    found = apply(f"cvt.{mode}.{to}.bf16 {{d}}, {{a}};", to, a=("b16", codes))
    width, signed = int(to[1:]), to[0] == "s"
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    for code, y in zip(codes, found, strict=True):
        x = float(code.view(ml_dtypes.bfloat16))
        if math.isnan(x):
            expected = (-(1 << 63) if signed else 1 << 63) if width == 64 else 0
        else:
            expected = (low if x < 0 else high) if math.isinf(x) else min(max(whole(x), low), high)
        assert int(y) == expected, (hex(code), x)


@pytest.mark.parametrize(
    "text",
    ["ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%a1];",
     "ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64 {%r1}, [%a1];",
     "stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%a1], {%r1};"],
)  # fmt: skip
def test_matrices_of_bytes_are_refused(launch, text):
    with pytest.raises(TilecError, match=r"PTX line \d+: .*(needs one of m8n8|m16n8)"):
        launch(text)
