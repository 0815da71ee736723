"""mma.sp against a dense product, lane by lane: each lane's share of A, B, C and the metadata as the ISA
gives it."""

import numpy as np
import pytest

from tests.backends.emulator.conftest import assembled
from tests.backends.emulator.test_matrix import BITS, codes, dense, element
from tilec.backends import emulator
from tilec.ir.errors import TilecError

CASES = [
    ("m16n8k16", "f16", "f16", "f32"), ("m16n8k32", "f16", "f16", "f32"), ("m16n8k16", "f16", "f16", "f16"),
    ("m16n8k32", "f16", "f16", "f16"), ("m16n8k16", "bf16", "bf16", "f32"),
    ("m16n8k32", "bf16", "bf16", "f32"),
    ("m16n8k8", "tf32", "tf32", "f32"), ("m16n8k16", "tf32", "tf32", "f32"), ("m16n8k32", "s8", "u8", "s32"),
    ("m16n8k64", "u8", "s8", "s32"), ("m16n8k64", "s8", "s8", "s32"), ("m16n8k64", "e4m3", "e5m2", "f32"),
    ("m16n8k64", "s4", "u4", "s32"), ("m16n8k128", "u4", "s4", "s32"),
]  # fmt: skip
PAIRS = [(i, j) for i in range(4) for j in range(i + 1, 4)]


def kept(rng, name, k):
    """For each row, the columns that are kept, in order; and the two-bit numbers that say so."""
    columns, numbers = [], []
    for _ in range(16):
        row, bits = [], []
        for chunk in range(k * BITS[name] // 64 if name == "tf32" else k // (8 if BITS[name] == 4 else 4)):
            if name == "tf32":
                place = int(rng.integers(2))
                row.append(2 * chunk + place)
                bits += [(0, 1), (2, 3)][place]
                continue
            pair = PAIRS[rng.integers(len(PAIRS))]
            bits += pair
            wide = 2 if BITS[name] == 4 else 1
            row += [(4 * chunk + p) * wide + i for p in pair for i in range(wide)]
        columns.append(row)
        numbers.append(bits)
    return columns, numbers


def metadata(rng, numbers, name, selector):
    """The words of the 32 lanes; those that are not asked hold anything."""
    words = [int(x) for x in rng.integers(0, 1 << 32, 32)]
    bits = [sum(v << 2 * i for i, v in enumerate(row)) for row in numbers]
    length = 2 * len(numbers[0])  # bits of a row: 16 or 32, or 64
    for g in range(8):
        if BITS[name] >= 16:
            for t in range(length // 16):
                low, high = (bits[row] >> 16 * t & 0xFFFF for row in (g, g + 8))
                words[4 * g + selector * (length // 16) + t] = low | high << 16
        else:
            for t in range(2 * length // 32):
                word = bits[g + 8 * (t % 2)] >> 32 * (t // 2) & 0xFFFFFFFF
                words[4 * g + selector * (2 * length // 32) + t] = word
    return np.array(words, np.uint32)


def selectors(shape, name):
    wide, k = BITS[name] >= 16, int(shape.split("k")[1])
    shallow = k * BITS[name] == 256
    return (range(4) if shallow else range(2)) if wide else (range(2) if shallow else range(1))


@pytest.mark.parametrize("variant", ["sp", "sp::ordered_metadata"])
@pytest.mark.parametrize(("shape", "a", "b", "d"), CASES)
def test_mma_sparse(shape, a, b, d, variant):
    rng = np.random.default_rng(1)
    k, p = int(shape.split("k")[1]), 32 // BITS[a]
    x, y = codes(rng, a, k // (4 * p)), codes(rng, b, k // (4 * p))
    columns, numbers = kept(rng, a, k)
    half = dense(x, 16, k // 2, a, True)
    left = np.zeros((16, k))
    for row in range(16):
        left[row, columns[row]] = half[row]
    right = dense(y, 16, k, b, False)
    nc = 2 if d == "f16" else 4
    word = {"f16": np.uint32, "f32": np.float32, "s32": np.int32}[d]
    if d == "f16":
        c = rng.standard_normal((2, 32, 2)).astype(np.float16).view(np.uint32)[..., 0]
    else:
        c = (rng.standard_normal((4, 32)) * 100).astype(word)
    for selector in selectors(shape, a):
        out = np.zeros((nc, 32), word)
        ptx = text(variant, shape, (d, a, b), (len(x), len(y), nc), selector)
        assembled(ptx)
        args = (x, y, c, metadata(rng, numbers, a, selector), out)
        emulator.load(ptx).launch("k", 1, 32, args).raise_if_any()
        for lane in range(32):
            g, t = lane >> 2, lane & 3
            for i in range(4):
                row, col = g + 8 * (i // 2), 2 * t + i % 2
                if d == "f16":
                    c0, found = (element(v, lane, i // 2, i % 2, "f16") for v in (c, out))
                else:
                    c0, found = float(c[i, lane]), float(out[i, lane])
                scale = np.abs(left[row]) @ np.abs(right[:, col]) + abs(c0)
                bound = {"f16": 2e-3, "f32": 1e-6, "s32": 0}[d] * scale
                assert abs(found - (left[row] @ right[:, col] + c0)) <= bound, (selector, lane, i)


def text(variant, shape, types, counts, selector):
    d, a, b = types
    acc = "f32" if d == "f32" else "b32"
    sets = {"a": (counts[0], "b32"), "b": (counts[1], "b32"), "c": (counts[2], acc), "e": (1, "b32")}
    lines = [f".reg .{kind} %{n}<{count}>;" for n, (count, kind) in sets.items()]
    lines += [f".reg .{acc} %d<{counts[2]}>; .reg .b32 %t; .reg .b64 %at, %base; mov.u32 %t, %tid.x;"]
    for n, (count, kind) in sets.items():
        lines += [f"ld.param.u64 %base, [{n}]; mad.wide.u32 %at, %t, 4, %base;"]
        lines += [f"ld.global.{kind} %{n}{i}, [%at+{i * 128}];" for i in range(count)]
    names = {**{n: count for n, (count, _) in sets.items()}, "d": counts[2]}
    braces = {n: "{" + ", ".join(f"%{n}{i}" for i in range(count)) + "}" for n, count in names.items()}
    operands = f"{braces['d']}, {braces['a']}, {braces['b']}, {braces['c']}, %e0, {selector}"
    lines += [f"mma.{variant}.sync.aligned.{shape}.row.col.{d}.{a}.{b}.{d} {operands};"]
    lines += ["ld.param.u64 %base, [d]; mad.wide.u32 %at, %t, 4, %base;"]
    lines += [f"st.global.{acc} [%at+{i * 128}], %d{i};" for i in range(counts[2])]
    params = ", ".join(f".param .u64 {n}" for n in "abced")
    head = ".version 8.7\n.target sm_90a\n.address_size 64\n"
    return head + f".visible .entry k({params}) {{\n" + "\n".join(lines) + "\nret;\n}\n"


@pytest.mark.parametrize(
    ("shape", "a", "selector", "message"),
    [
        ("m16n8k16", "f16", 4, "the sparsity selector of this shape is a constant from 0 to 3"),
        ("m16n8k32", "f16", 2, "a constant from 0 to 1"),
        ("m16n8k64", "s8", 1, "a constant from 0 to 0"),
        ("m16n8k64", "f16", 0, "does not know mma.sp m16n8k64 on f16"),
        ("m16n8k32", "e4m3", 0, "does not know mma.sp m16n8k32 on e4m3"),
    ],
)
def test_what_there_is_not(shape, a, selector, message):
    k, p = int(shape.split("k")[1]), 32 // BITS[a]
    d = "s32" if a == "s8" else "f32"
    with pytest.raises(TilecError, match=message):
        emulator.load(text("sp", shape, (d, a, a), (k // 4 // p, k // 4 // p, 4), selector))
