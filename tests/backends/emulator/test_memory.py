"""Loads, stores, atomics, local memory, functions, module variables."""

import numpy as np
import pytest

from tilec.backends import emulator

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"


@pytest.mark.parametrize(
    ("kind", "size"), [("u8", 1), ("s8", 1), ("u16", 2), ("s16", 2), ("s32", 4), ("u64", 8)]
)
def test_narrow_loads_extend(launch, kind, size):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, 32 * size, dtype=np.uint8)
    out = np.zeros(32, np.uint64)
    launch(f"mad.wide.u32 %a0, %r0, {size}, %p0; ld.global.{kind} %a1, [%a0]; mad.wide.u32 %a2, %r0, 8, %p1;"
           "st.global.u64 [%a2], %a1;", (x, out)).raise_if_any()  # fmt: skip
    signed = kind[0] == "s"
    expected = [
        int.from_bytes(x[i * size : (i + 1) * size].tobytes(), "little", signed=signed) for i in range(32)
    ]
    assert out.tolist() == [e & (2**64 - 1) for e in expected]


def test_vectors_and_pieces(launch):
    x = np.arange(128, dtype=np.float32)
    y = np.zeros_like(x)
    launch("mad.wide.u32 %a0, %r0, 16, %p0; mad.wide.u32 %a1, %r0, 16, %p1;"
           "ld.global.nc.v4.f32 {%f0, %f1, %f2, %f3}, [%a0]; st.global.v4.f32 [%a1], {%f3, %f2, %f1, %f0};",
           (x, y)).raise_if_any()  # fmt: skip
    np.testing.assert_array_equal(y.reshape(-1, 4), x.reshape(-1, 4)[:, ::-1])
    z = np.zeros(32, np.uint64)
    launch("mov.b64 %a0, {%r0, 7}; mov.b64 {%r1, %r2}, %a0; add.u32 %r1, %r1, %r2; mov.b64 %a1, {%r1, %r2};"
           "mad.wide.u32 %a2, %r0, 8, %p0; st.global.u64 [%a2], %a1;", (z,)).raise_if_any()  # fmt: skip
    assert z.tolist() == [(i + 7) | 7 << 32 for i in range(32)]


def test_generic_addresses(launch):
    """One instruction reads shared memory in some lanes and global memory in others."""
    x = np.arange(32, dtype=np.uint32)
    y = np.zeros(32, np.uint32)
    launch(
        """
        .shared .align 4 .b8 s[128];
        mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 4, %a0; add.u32 %r1, %r0, 100; st.shared.u32 [%a1], %r1;
        bar.warp.sync -1;
        cvta.shared.u64 %a1, %a1; mad.wide.u32 %a2, %r0, 4, %p0;
        and.b32 %r2, %r0, 1; setp.eq.u32 %q0, %r2, 0; selp.b64 %a3, %a1, %a2, %q0;
        ld.u32 %r3, [%a3]; mad.wide.u32 %a4, %r0, 4, %p1; st.u32 [%a4], %r3;""",
        (x, y),
    ).raise_if_any()
    assert y.tolist() == [i + 100 if i % 2 == 0 else i for i in range(32)]


ATOMICS = {
    "add.u32": lambda v, s: (s + sum(v)) & 0xFFFFFFFF, "min.s32": lambda v, s: min(*map(signed, v),
    signed(s)),
    "max.u32": lambda v, s: max(*v, s), "and.b32": lambda v, s: int(np.bitwise_and.reduce([*v, s])),
    "or.b32": lambda v, s: int(np.bitwise_or.reduce([*v, s])), "xor.b32": lambda v,
    s: int(np.bitwise_xor.reduce([*v, s])),
}  # fmt: skip


def signed(x):
    return x - (1 << 32) if x >> 31 else x


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics_meet(launch, name):
    """256 threads of 4 blocks update 3 words."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 1 << 32, 1024, dtype=np.uint32)
    words = rng.integers(0, 1 << 32, 3, dtype=np.uint32)
    before = words.copy()
    launch(
        f"""mov.u32 %r1, %ctaid.x; mad.lo.u32 %r1, %r1, 256, %r0; mad.wide.u32 %a0, %r1, 4, %p0;
        ld.global.u32 %r2, [%a0]; rem.u32 %r3, %r1, 3; mad.wide.u32 %a1, %r3, 4, %p1;
        red.global.{name} [%a1], %r2;""",
        (x, words),
        grid=4,
        block=256,
    ).raise_if_any()
    for w in range(3):
        assert int(words[w]) == ATOMICS[name]([int(v) for v in x[w::3]], int(before[w])) & 0xFFFFFFFF


def test_atomics_give_old_values(launch):
    """Tickets: every thread gets another one; cas lets exactly one through; inc and dec wrap."""
    counter, out, flag = np.zeros(4, np.uint32), np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    launch("""atom.global.add.u32 %r1, [%p0], 1; mad.wide.u32 %a0, %r0, 4, %p1; st.global.u32 [%a0], %r1;
        atom.global.cas.b32 %r2, [%p0+4], 0, 1; mad.wide.u32 %a1, %r0, 4, %p2; st.global.u32 [%a1], %r2;
        atom.global.inc.u32 %r3, [%p0+8], 9; atom.global.dec.u32 %r3, [%p0+12], 9;""", (counter, out, flag),
           block=64).raise_if_any()  # fmt: skip
    assert sorted(out.tolist()) == list(range(64))
    assert sorted(flag.tolist()) == [0] + [1] * 63
    assert counter.tolist() == [64, 1, 64 % 10, (10 - 64 % 10) % 10]


def test_float_atomics_on_shared(launch):
    out = np.zeros(1, np.float32)
    launch(
        """
        .shared .align 4 .b8 s[4]; mov.u64 %a0, s; setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.f32 [%a0],
        0f00000000; bar.sync 0; cvt.rn.f32.u32 %f0, %r0; atom.shared.add.f32 %f1, [%a0], %f0; bar.sync 0;
        ld.shared.f32 %f2, [%a0]; @%q0 st.global.f32 [%p0], %f2;""",
        (out,),
        block=128,
    ).raise_if_any()
    assert out[0] == sum(range(128))


CALL = HEAD + """
.global .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 8 .u64 pointer = table;
.global .align 4 .u32 calls;
.func (.param .b32 result) pick(.param .b32 n, .param .b64 base)
{ .reg .b32 %r<4>; .reg .b64 %a<4>; .reg .pred %p;
  ld.param.u32 %r1, [n]; ld.param.u64 %a1, [base]; setp.gt.u32 %p, %r1, 3; @%p bra big;
  mad.wide.u32 %a2, %r1, 4, %a1; ld.global.u32 %r2, [%a2]; st.param.b32 [result], %r2; ret;
big: st.param.b32 [result], 99; ret; }
.visible .entry k(.param .u64 out)
{ .reg .b32 %r<8>; .reg .b64 %a<8>; .local .align 4 .b8 buffer[32];
  mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 7; mov.u64 %a3, pointer; ld.global.u64 %a4, [%a3];
  { .param .b32 p0; .param .b64 p1; .param .b32 r0; st.param.b32 [p0], %r1; st.param.b64 [p1], %a4;
    call.uni (r0), pick, (p0, p1); ld.param.b32 %r2, [r0]; }
  mov.u64 %a5, buffer; mad.wide.u32 %a5, %r1, 4, %a5; st.local.u32 [%a5], %r2; ld.local.u32 %r3, [%a5];
  ld.param.u64 %a1, [out]; mad.wide.u32 %a2, %r0, 4, %a1; st.global.u32 [%a2], %r3;
  mov.u64 %a6, calls; red.global.add.u32 [%a6], 1; ret; }
"""  # fmt: skip


def test_functions_and_module_variables():
    out = np.zeros(32, np.uint32)
    module = emulator.load(CALL)
    for _ in range(2):
        module.launch("k", 1, 32, (out,)).raise_if_any()
    assert out.tolist() == [10, 20, 30, 40, 99, 99, 99, 99] * 4
    assert module.contents["calls"].view(np.uint32)[0] == 64  # kept from launch to launch


def test_strided_and_shared_arrays(launch):
    """A view of an array and the array itself are one memory."""
    x = np.arange(64, dtype=np.uint32)
    launch("mad.wide.u32 %a0, %r0, 8, %p1; ld.global.u32 %r1, [%a0]; add.u32 %r1, %r1, 1000;"
           "mad.wide.u32 %a1, %r0, 8, %p0; st.global.u32 [%a1], %r1;", (x[1::2],
           x)).raise_if_any()  # fmt: skip
    assert x[1::2].tolist() == [2 * i + 1000 for i in range(32)]
