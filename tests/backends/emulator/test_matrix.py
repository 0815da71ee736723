"""mma.sync, ldmatrix, stmatrix against loops over lanes, registers and elements, by the ISA's formulas."""

import numpy as np
import pytest

from tests.backends.emulator.scalar import value
from tilec.backends import emulator

BITS = {
    "f16": 16,
    "bf16": 16,
    "tf32": 32,
    "s8": 8,
    "u8": 8,
    "e4m3": 8,
    "e5m2": 8,
    "s4": 4,
    "u4": 4,
    "f64": 64,
}
CASES = [
    ("m16n8k8", "f16", "f16", "f32"), ("m16n8k16", "f16", "f16", "f32"), ("m16n8k16", "f16", "f16", "f16"),
    ("m16n8k8", "f16", "f16", "f16"), ("m16n8k8", "bf16", "bf16", "f32"), ("m16n8k16", "bf16", "bf16", "f32"),
    ("m16n8k4", "tf32", "tf32", "f32"), ("m16n8k8", "tf32", "tf32", "f32"), ("m16n8k16", "s8", "s8", "s32"),
    ("m16n8k16", "u8", "s8", "s32"), ("m16n8k32", "s8", "u8", "s32"), ("m16n8k32", "u8", "u8", "s32"),
    ("m8n8k16", "s8", "s8", "s32"), ("m16n8k32", "e4m3", "e4m3", "f32"), ("m16n8k32", "e5m2", "e4m3", "f32"),
    ("m16n8k16", "e4m3", "e5m2", "f32"), ("m16n8k32", "e4m3", "e4m3", "f16"), ("m16n8k32", "s4", "u4", "s32"),
    ("m16n8k64", "u4", "s4", "s32"), ("m8n8k4", "f64", "f64", "f64"), ("m16n8k8", "f64", "f64", "f64"),
    ("m16n8k4", "f64", "f64", "f64"), ("m16n8k16", "f64", "f64", "f64"), ("m8n8k32", "s4", "s4", "s32"),
]  # fmt: skip


def number(code, name):
    """An element by definition."""
    if name[0] in "su":
        width = BITS[name]
        return code - (1 << width) if name[0] == "s" and code >> width - 1 else code
    if name == "tf32":
        return float(value(code >> 13, "tf32"))
    return float(value(code, name))


def element(registers, lane, r, h, name):
    p = max(1, 32 // BITS[name])
    word = int(registers[r][lane])
    return number(word >> h * BITS[name] & ((1 << BITS[name]) - 1) if p > 1 else word, name)


def dense(registers, rows, depth, name, is_a):
    """A [rows, k] or B [k, 8], lane by lane."""
    p = max(1, 32 // BITS[name])
    out = np.zeros((rows, depth) if is_a else (depth, 8))
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        for r in range(len(registers)):
            for h in range(p):
                v = element(registers, lane, r, h, name)
                if is_a:
                    halves = rows // 8
                    out[g + 8 * (r % halves), t * p + h + 4 * p * (r // halves)] = v
                else:
                    out[t * p + h + 4 * p * r, g] = v
    return out


def codes(rng, name, count):
    """Finite moderate elements, packed into registers."""
    if name == "f64":
        return rng.standard_normal((count, 32)).view(np.uint64)
    if name == "tf32":
        return rng.standard_normal((count, 32)).astype(np.float32).view(np.uint32)
    if name == "f16":
        return rng.standard_normal((count, 32, 2)).astype(np.float16).view(np.uint32)[..., 0]
    if name == "bf16":
        return rng.standard_normal((count, 32, 2)).astype(np.float32).view(np.uint32).__rshift__(16).astype(
            np.uint16).view(np.uint32)[..., 0]  # fmt: skip
    if name in ("e4m3", "e5m2"):
        low = rng.integers(0, 0x48 if name == "e4m3" else 0x44, (count, 32, 4), dtype=np.uint8)
        return (low | rng.integers(0, 2, low.shape, dtype=np.uint8) << 7).view(np.uint32)[..., 0]
    return rng.integers(0, 1 << 32, (count, 32), dtype=np.uint32)


@pytest.mark.parametrize(("shape", "a", "b", "d"), CASES)
def test_mma(shape, a, b, d):
    rng = np.random.default_rng(0)
    m, rest = shape[1:].split("n8k")
    m, k = int(m), int(rest)
    p = max(1, 32 // BITS[a])
    na, nb = m // 8 * k // (4 * p), k // (4 * p)
    nc = m // 8 * (1 if d == "f16" else 2)
    x, y = codes(rng, a, na), codes(rng, b, nb)
    word = {"f16": np.uint32, "f32": np.float32, "s32": np.int32, "f64": np.float64}[d]
    if d == "f16":
        c = rng.standard_normal((nc, 32, 2)).astype(np.float16).view(np.uint32)[..., 0]
    else:
        c = (rng.standard_normal((nc, 32)) * 100).astype(word)
    out = np.zeros((nc, 32), word)
    run_mma(shape, (a, b, d), x, y, c, out)
    expected = dense(x, m, k, a, True) @ dense(y, m, k, b, False)
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        for i in range(2 * (m // 8)):
            row, col = g + 8 * (i // 2), 2 * t + i % 2
            if d == "f16":
                c0, found = (v[i // 2, lane : lane + 1].view(np.float16)[i % 2] for v in (c, out))
            else:
                c0, found = c[i, lane], out[i, lane]
            scale = np.abs(dense(x, m, k, a, True)[row]) @ np.abs(dense(y, m, k, b, False)[:, col])
            bound = {"f16": 2e-3, "f32": 1e-6, "s32": 0, "f64": 1e-15}[d] * (scale + abs(float(c0)))
            assert abs(float(found) - (expected[row, col] + float(c0))) <= bound, (lane, i)


def run_mma(shape, types, x, y, c, out):
    a, b, d = types
    wide = a == "f64"
    reg = "b64" if wide else "b32"
    acc = {"f16": "b32", "f32": "f32", "s32": "b32", "f64": "f64"}[d]
    reg, acc = ("f64", "f64") if wide else (reg, acc)
    na, nb, nc = len(x), len(y), len(c)
    size, acc_size = (8 if wide else 4), out.itemsize
    sets = {"a": (na, reg, size), "b": (nb, reg, size), "c": (nc, acc, acc_size)}
    lines = [f".reg .{k} %{n}<{count}>;" for n, (count, k, _) in sets.items()] + [f".reg .{acc} %d<{nc}>;"]
    lines += [".reg .b32 %t; .reg .b64 %at, %base; mov.u32 %t, %tid.x;"]
    for n, (count, k, s) in sets.items():
        lines += [f"ld.param.u64 %base, [{n}]; mad.wide.u32 %at, %t, {s}, %base;"]
        lines += [f"ld.global.{k} %{n}{i}, [%at+{i * 32 * s}];" for i in range(count)]
    braces = {n: "{" + ", ".join(f"%{n}{i}" for i in range(count)) + "}" for n, (count, _, _) in sets.items()}
    braces["d"] = "{" + ", ".join(f"%d{i}" for i in range(nc)) + "}"
    lines += [f"mma.sync.aligned.{shape}.row.col.{d}.{a}.{b}.{d} {braces['d']}, {braces['a']}, "
              f"{braces['b']}, "
              f"{braces['c']};"]  # fmt: skip
    lines += [f"ld.param.u64 %base, [d]; mad.wide.u32 %at, %t, {acc_size}, %base;"]
    lines += [f"st.global.{acc} [%at+{i * 32 * acc_size}], %d{i};" for i in range(nc)]
    params = ", ".join(f".param .u64 {n}" for n in "abcd")
    ptx = ".version 8.7\n.target sm_90a\n.address_size 64\n"
    ptx += f".visible .entry k({params}) {{\n" + "\n".join(lines) + "\nret;\n}\n"
    from tests.backends.emulator.conftest import assembled

    assembled(ptx)
    emulator.load(ptx).launch("k", 1, 32, (x, y, c, out)).raise_if_any()


def test_integer_mma_saturates():
    from tilec.backends.emulator.mma import Shape, product

    big = np.full((1, 16, 32), 127.0, np.float32)
    c = np.full((1, 16, 8), 2**31 - 5, np.int64)
    shape = Shape(16, 8, 32, "s32", "s8", "s8", "s32", True, 4, 2)
    assert (product(big, np.full((1, 32, 8), 127.0, np.float32), c, shape) == 2**31 - 1).all()
    wrapping = Shape(16, 8, 32, "s32", "s8", "s8", "s32", False, 4, 2)
    found = product(big, np.full((1, 32, 8), 127.0, np.float32), c, wrapping)
    assert (found == np.int64(2**31 - 5 + 32 * 127 * 127 - 2**32)).all()


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("blocks", [1, 3, 16, 37])
def test_compiled_product_is_numpys(kind, blocks):
    """The compiled m16n8k16 and its numpy twin, over warps and blocks, D in place of C."""
    from tilec.backends.emulator.fast import matrix_product
    from tilec.backends.emulator.mma import matrix_a, matrix_b, matrix_c, registers_d

    rng, lanes = np.random.default_rng(0), 3 * 32 * blocks
    words = [codes(rng, kind, lanes // 32).reshape(-1) for _ in range(6)]
    sums = [rng.standard_normal(lanes).astype(np.float32) for _ in range(4)]
    rows = [x.reshape(3, 32, blocks).transpose(0, 2, 1).reshape(-1, 32) for x in (*words, *sums)]
    expected = matrix_a(rows[:4], kind, 16) @ matrix_b(rows[4:6], kind) + matrix_c(rows[6:], False)
    pointers = [x.ctypes.data for x in (*words, *sums)]
    matrix_product(kind)(pointers + pointers[6:], 3, blocks)
    for found, right in zip(sums, registers_d(expected, False), strict=True):
        found = found.reshape(3, 32, blocks).transpose(0, 2, 1).reshape(-1, 32)
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_compiled_product_is_used_for_many(monkeypatch):
    """The same instruction by both ways, chosen by how many products a launch has seen."""
    import tilec.backends.emulator.mma as mma

    monkeypatch.setattr(mma, "MANY", 0)
    test_mma("m16n8k16", "f16", "f16", "f32")
    test_mma("m16n8k16", "bf16", "bf16", "f32")


MATRIX = """
    .shared .align 16 .b8 s[512]; .reg .b32 %m<4>;
    mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 16, %a0; mad.wide.u32 %a2, %r0, 16, %p0;
    ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%a2]; st.shared.v4.u32 [%a1], {{%r1, %r2, %r3, %r4}};
    bar.warp.sync -1;
    {body}
    mad.wide.u32 %a3, %r0, {size}, %p1;
    {stores}"""


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(launch, count, trans):
    x = np.random.default_rng(1).integers(0, 1 << 16, 256, dtype=np.uint16)
    out = np.zeros((32, count), np.uint32)
    names = "{" + ", ".join(f"%m{i}" for i in range(count)) + "}"
    body = f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {names}, [%a1];"
    stores = "\n".join(f"st.global.u32 [%a3+{4 * i}], %m{i};" for i in range(count))
    launch(MATRIX.format(body=body, size=4 * count, stores=stores), (x, out)).raise_if_any()
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        for i in range(count):
            matrix = x[i * 64 : i * 64 + 64].reshape(8, 8)
            pair = (
                (matrix[2 * t, g], matrix[2 * t + 1, g])
                if trans
                else (matrix[g, 2 * t], matrix[g, 2 * t + 1])
            )
            assert out[lane, i] == int(pair[0]) | int(pair[1]) << 16


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix_undoes_ldmatrix(launch, count, trans):
    x = np.random.default_rng(2).integers(0, 1 << 16, 256, dtype=np.uint16)
    out = np.zeros((32, 4), np.uint32)
    names = "{" + ", ".join(f"%m{i}" for i in range(count)) + "}"
    body = f"""ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {names}, [%a1];
        bar.warp.sync -1; st.shared.v4.u32 [%a1], {{{{%r0, %r0, %r0, %r0}}}}; bar.warp.sync -1;
        stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%a1], {names};
        bar.warp.sync -1; ld.shared.v4.u32 {{{{%r5, %r6, %r7, %r8}}}}, [%a1];""".replace("{{", "{").replace(
        "}}", "}"
    )
    stores = "st.global.v4.u32 [%a3], {%r5, %r6, %r7, %r8};"
    launch(MATRIX.format(body=body, size=16, stores=stores), (x, out)).raise_if_any()
    got = out.reshape(-1).view(np.uint16)
    np.testing.assert_array_equal(got[: 64 * count], x[: 64 * count])
    assert (got.view(np.uint32)[32 * count :] == np.repeat(np.arange(8 * count, 32), 4)).all()


def test_movmatrix(launch):
    x = np.arange(64, dtype=np.uint16)
    out = np.zeros(32, np.uint32)
    launch("mad.wide.u32 %a0, %r0, 4, %p0; ld.global.u32 %r1, [%a0]; "
           "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;"
           "mad.wide.u32 %a1, %r0, 4, %p1; st.global.u32 [%a1], %r2;", (x, out)).raise_if_any()  # fmt: skip
    np.testing.assert_array_equal(out.view(np.uint16).reshape(8, 8), x.reshape(8, 8).T)


def test_ldmatrix_rows_must_be_aligned(launch):
    report = launch(".shared .align 16 .b8 s[640]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 20, %a0;"
                    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%a1];")  # fmt: skip
    assert report.findings[0].kind == "misaligned"


def test_divergent_mma_is_found(launch):
    report = launch(".shared .align 16 .b8 s[512]; mov.u64 %a0, s; setp.lt.u32 %q0, %r0, 16; @!%q0 bra out;"
                    "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%a0]; out: bar.sync 0;")  # fmt: skip
    assert report.findings[0].kind == "divergence"
