"""wgmma: every type, swizzle and major-ness against a dense product; images of shared memory built by
CUTLASS's canonical layouts (mma_sm90_desc.hpp), in units of 16 bytes before the swizzle:

    K-major    none ((8,m),2):((1,SBO),LBO)    S ((8,m),2):((S/16,SBO),1)
    MN-major   none ((1,m),(8,k)):((X,SBO),(1,LBO))    S ((S/16,m),(8,k)):((1,LBO),(S/16,SBO))
"""

import numpy as np
import pytest

from tests.backends.emulator.conftest import assembled
from tests.backends.emulator.scalar import value
from tests.backends.emulator.test_mma_sparse import kept, metadata
from tilec.backends import emulator

ITEM = {"f16": 2, "bf16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1, "s8": 1, "u8": 1}
MODE = {0: 0, 128: 1, 64: 2, 32: 3}


def numbers(codes, name):
    if name in ("s8", "u8"):
        return codes.view(np.int8 if name == "s8" else np.uint8).astype(np.float64)
    if name == "tf32":
        return (codes & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    return np.vectorize(lambda c: float(value(int(c), name)))(codes)


def random_codes(rng, name, shape):
    if name in ("s8", "u8"):
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if name in ("e4m3", "e5m2"):
        return (
            rng.integers(0x20, 0x44, shape, dtype=np.uint8) | rng.integers(0, 2, shape, dtype=np.uint8) << 7
        )
    x = rng.standard_normal(shape).astype(np.float32)
    if name == "tf32":
        return x.view(np.uint32)
    return (
        x.astype(np.float16).view(np.uint16) if name == "f16" else (x.view(np.uint32) >> 16).astype(np.uint16)
    )


def place(r, k, item, span, transposed, lbo, sbo):
    """The byte of element (r, k) before the swizzle."""
    per, chunk = 16 // item, span // 16
    if not transposed:
        c, low = divmod(k, per)
        unit = r % 8 * (chunk or 1) * 16 + r // 8 * sbo + (c * 16 if span else c * lbo)
        return unit + low * item
    c, low = divmod(r, per)
    if span:
        return c % chunk * 16 + c // chunk * lbo + k % 8 * span + k // 8 * sbo + low * item
    return c * sbo + k % 8 * 16 + k // 8 * lbo + low * item


def image(codes, item, span, transposed, start, memory):
    """Puts a [rows, depth] operand into an image of shared memory; gives its descriptor."""
    rows, depth = codes.shape
    if transposed:
        across = span // item if span else 8
        lbo, sbo = (8 * span * (depth // 8), 8 * span) if span else (128 * (rows // 8), 128)
        assert rows % across == 0
    else:
        lbo, sbo = (16, 8 * span) if span else (128 * (rows // 8), 128)
    for r in range(rows):
        for k in range(depth):
            at = start + place(r, k, item, span, transposed, lbo, sbo)
            at ^= (at >> 7 & {0: 0, 32: 1, 64: 3, 128: 7}[span]) << 4
            memory[at : at + item] = np.frombuffer(codes[r, k].tobytes(), np.uint8)
    return start >> 4 | lbo >> 4 << 16 | sbo >> 4 << 32 | MODE[span] << 62


def kernel(shape, types, n, a_registers, transposes, signs=(1, 1), selector=None):
    d, a, b = types
    count = n // 4 if d == "f16" else n // 2
    reg = {"f16": "b32", "f32": "f32", "s32": "s32"}[d]
    names = ", ".join(f"%d{i}" for i in range(count))
    first = "{%x0, %x1, %x2, %x3}" if a_registers else "%da"
    tail = "" if a in ("s8", "u8") else f", {signs[0]}, {signs[1]}"
    if ITEM[a] == 2:
        tail += f", {int(transposes[1])}" if a_registers else f", {int(transposes[0])}, {int(transposes[1])}"
    sp, meta = ("", "") if selector is None else (".sp", f"%e, {selector}, ")
    product = f"wgmma.mma_async{sp}.sync.aligned.{shape}.{d}.{a}.{b} {{{names}}}, {first}, %db,"
    product += f" {meta}%q1{tail};"
    text = f""".version 8.7\n.target sm_90a\n.address_size 64
    .visible .entry k(.param .u64 image, .param .u64 out, .param .u64 da, .param .u64 db, .param .u64 frag,
    .param .u64 meta) {{ .reg .b32 %e; .reg .b64 %m; ld.param.u64 %m, [meta];
    .reg .b64 %i, %o, %da, %db, %s, %a<4>, %f; .reg .b32 %t, %n, %x<4>, %w<4>; .reg .{reg} %d<{count}>;
    .reg .pred %q<4>; .shared .align 1024 .b8 s[65536];
    ld.param.u64 %i, [image]; ld.param.u64 %o, [out]; ld.param.u64 %da, [da]; ld.param.u64 %db, [db];
    ld.param.u64 %f, [frag]; mov.u64 %s, s; mov.u32 %t, %tid.x; mov.u32 %n, %t;
    fill: mad.wide.u32 %a0, %n, 16, %i; mad.wide.u32 %a1, %n, 16, %s; ld.global.v4.u32 {{%w0,%w1,%w2,%w3}},
    [%a0];
    st.shared.v4.u32 [%a1], {{%w0,%w1,%w2,%w3}}; add.u32 %n, %n, 128; setp.lt.u32 %q0, %n,
    4096; @%q0 bra fill;
    mad.wide.u32 %a2, %t, 16, %f; ld.global.v4.u32 {{%x0,%x1,%x2,%x3}}, [%a2];
    mad.wide.u32 %m, %t, 4, %m; ld.global.u32 %e, [%m];
    {"".join(f"mov.{reg} %d{i}, {'0f00000000' if d == 'f32' else '0'};" for i in range(count))}
    fence.proxy.async; bar.sync 0; setp.ne.u32 %q1, 0, 1; setp.eq.u32 %q2, 0, 1;
    wgmma.fence.sync.aligned; {product.replace("%q1", "%q2")} {product} wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0; mad.wide.u32 %a3, %t, {4 * count}, %o;
    {"".join(f"st.global.{reg} [%a3+{4 * i}], %d{i};" for i in range(count))} ret; }}"""
    assembled(text)
    return emulator.load(text)


def dense(out, n, d):
    """D from the registers, lane by lane."""
    found = np.zeros((64, n))
    for t in range(128):
        row, col = t // 32 * 16 + t % 32 // 4, t % 4 * 2
        for j in range(n // 8):
            for h in range(2):
                if d == "f16":
                    pair = out[t, 2 * j + h : 2 * j + h + 1].view(np.float16)
                else:
                    pair = out[t, 4 * j + 2 * h : 4 * j + 2 * h + 2]
                found[row + 8 * h, 8 * j + col : 8 * j + col + 2] = pair
    return found


def fragments(codes, item):
    """A of every thread: the mma.sync fragment of its warp's 16 rows."""
    p, out = 4 // item, np.zeros((128, 4), np.uint32)
    for t in range(128):
        g, q = t % 32 // 4, t % 4
        for r in range(4):
            row, col = t // 32 * 16 + g + 8 * (r % 2), q * p + 4 * p * (r // 2)
            out[t, r] = np.ascontiguousarray(codes[row, col : col + p]).view(np.uint32)[0]
    return out


def run(types, n, span, transposes=(False, False), a_registers=False, signs=(1, 1), change=None):
    d, a, b = types
    depth = 32 // ITEM[a]
    rng = np.random.default_rng(0)
    x, y = random_codes(rng, a, (64, depth)), random_codes(rng, b, (n, depth))
    memory = np.zeros(65536, np.uint8)
    da = image(x, ITEM[a], span, transposes[0], 0, memory)
    db = image(y, ITEM[b], span, transposes[1], 32768, memory)
    word = {"f16": np.uint32, "f32": np.float32, "s32": np.int32}[d]
    out = np.zeros((128, n // 4 if d == "f16" else n // 2), word)
    module = kernel(f"m64n{n}k{depth}", types, n, a_registers, transposes, signs)
    da, db = change(da, db) if change else (da, db)
    args = (memory, out, np.uint64(da), np.uint64(db), fragments(x, ITEM[a]), np.zeros(128, np.uint32))
    report = module.launch("k", 1, 128, args)
    expected = 2 * signs[0] * signs[1] * numbers(x, a) @ numbers(y, b).T
    return report, dense(out, n, d), expected


TYPES = [("f32", "f16", "f16"), ("f16", "f16", "f16"), ("f32", "bf16", "bf16"), ("f32", "tf32", "tf32"),
         ("f32", "e4m3", "e5m2"), ("f16", "e5m2", "e4m3"), ("s32", "s8", "u8"), ("s32", "u8",
         "u8")]  # fmt: skip


def right(report, found, expected, d):
    assert not report.findings, report.describe()
    bound = {"f32": 1e-5, "f16": 4e-3, "s32": 0}[d] * (np.abs(expected).max() + 1)
    np.testing.assert_allclose(found, expected, atol=bound, rtol=0)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("span", [0, 32, 64, 128])
def test_k_major(types, span):
    right(*run(types, 24, span), types[0])


@pytest.mark.parametrize("transposes", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("span", [0, 32, 64, 128])
def test_mn_major(transposes, span):
    right(*run(("f32", "f16", "f16"), 64, span, transposes), "f32")


@pytest.mark.parametrize("types", TYPES)
def test_a_in_registers(types):
    right(*run(types, 16, 128, a_registers=True), types[0])


@pytest.mark.parametrize("n", [8, 128, 256])
def test_widths_and_signs(n):
    right(*run(("f32", "f16", "f16"), n, 128, signs=(-1, 1)), "f32")


def test_tile_within_the_pattern_is_misaligned():
    report, _, _ = run(("f32", "f16", "f16"), 16, 128, change=lambda a, b: (a + (128 >> 4), b))
    assert report.findings[0].kind == "misaligned" and "set the base offset" in report.findings[0].message


ONE_PRODUCT = """.shared .align 1024 .b8 s[4096]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 32, %a0;
    st.shared.v4.u32 [%a1], {{0, 0, 0, 0}}; st.shared.v4.u32 [%a1+16], {{0, 0, 0, 0}};
    shr.u64 %a0, %a0, 4; or.b64 %a0, %a0, 0x0000001000080000; mov.b64 %a2, %a0; setp.eq.u32 %q0, 0, 0;
    shr.u32 %r1, %r0, {by}; setp.ne.u32 %q1, %r1, 0; {other}
    mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
    fence.proxy.async; bar.sync 0; wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{%f0, %f1, %f2, %f3}}, %a0, %a2, %q0, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"""


@pytest.mark.parametrize(("other", "what"), [
    ("@%q1 add.s64 %a0, %a0, 1;", "descriptor of A"), ("@%q1 add.s64 %a2, %a2, 1;", "descriptor of B"),
    ("not.pred %q0, %q1;", "predicate"), ("", ""),
])  # fmt: skip
@pytest.mark.parametrize("by", [0, 5])
def test_a_warpgroup_has_one_descriptor(launch, other, what, by):
    """And one predicate: not another for its other lanes, or warps."""
    found = launch(ONE_PRODUCT.format(other=other, by=by), block=128).findings
    text = f"the {what} of this wgmma differs within its warpgroup"
    assert [(f.kind, f.message) for f in found] == [("divergence", text)] * bool(what)


def test_rows_end_with_the_swizzle():
    """From byte 112 of rows of 128; and a sparse product's 64 bytes of rows of 32."""
    found = run(("f32", "f16", "f16"), 16, 128, change=lambda a, b: (a, b + 7))[0].findings[0]
    text = "takes 32 bytes of each row from byte 112 on, and rows of the 128-byte swizzle end before"
    assert found.kind == "misaligned" and text in found.message
    found = sparse(("f32", "f16", "f16"), 16, 32)[0].findings[0]
    assert "takes 64 bytes of each row from byte 0 on, and rows of the 32-byte" in found.message


def test_operand_outside_shared_memory():
    report, _, _ = run(("f32", "f16", "f16"), 16, 128, change=lambda a, b: (a, b + (0x8000 - 1024 >> 4)))
    assert report.findings[0].kind == "out-of-bounds"


def sparse(types, n, span, transposes=(False, False), a_registers=False, selector=0):
    """A keeps half of its numbers: each warp's rows and metadata as mma.sp has them."""
    d, a, b = types
    depth = 64 // ITEM[a]
    rng = np.random.default_rng(0)
    x, y = random_codes(rng, a, (64, depth // 2)), random_codes(rng, b, (n, depth))
    values, whole, words = numbers(x, a), np.zeros((64, depth)), []
    for warp in range(4):
        columns, chosen = kept(rng, a, depth)
        words.append(metadata(rng, chosen, a, selector))
        for row in range(16):
            whole[16 * warp + row, columns[row]] = values[16 * warp + row]
    memory = np.zeros(65536, np.uint8)
    da = image(x, ITEM[a], span, transposes[0], 0, memory)
    db = image(y, ITEM[b], span, transposes[1], 32768, memory)
    word = {"f16": np.uint32, "f32": np.float32, "s32": np.int32}[d]
    out = np.zeros((128, n // 4 if d == "f16" else n // 2), word)
    module = kernel(f"m64n{n}k{depth}", types, n, a_registers, transposes, selector=selector)
    args = (memory, out, np.uint64(da), np.uint64(db), fragments(x, ITEM[a]), np.concatenate(words))
    report = module.launch("k", 1, 128, args)
    return report, dense(out, n, d), 2 * whole @ numbers(y, b).T


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("span", [0, 64, 128])
def test_sparse(types, span):
    for selector in range(1 if ITEM[types[1]] == 1 else 2):
        right(*sparse(types, 16, span, selector=selector), types[0])


@pytest.mark.parametrize("types", TYPES)
def test_sparse_a_in_registers(types):
    right(*sparse(types, 24, 128, a_registers=True), types[0])


@pytest.mark.parametrize("transposes", [(True, False), (False, True)])
def test_sparse_mn_major(transposes):
    right(*sparse(("f32", "bf16", "bf16"), 64, 128, transposes), "f32")
