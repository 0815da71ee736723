"""Wrong use of the emulator is an error that says what was expected, what was found, what to do."""

import numpy as np
import pytest

from tilec.backends import emulator
from tilec.ir.errors import TilecError

HEAD = ".version 8.7\n.target sm_80\n.address_size 64\n"
KERNEL = (
    HEAD
    + ".visible .entry k(.param .u64 x, .param .u32 n)\n{\n.reg .b32 %r<4>;\nmov.u32 %r1, %tid.x;\nret;\n}\n"
)
X = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(args=(X,)), "k takes 2 arguments, 1 were given"),
        (dict(args=(X, X)), r"argument 1 of k is a .u32 of 4 bytes, an array was given"),
        (dict(args=(X, np.int64(3))), r"argument 1 of k is a .u32 of 4 bytes; int64 has 8"),
        (dict(args=(X, 3)), r"must be a numpy array or scalar, not int; write np.int32"),
        (dict(kernel="j"), "the module has no kernel 'j'; it has k"),
        (dict(grid=0), "grid is one to three positive numbers, not 0"),
        (dict(block=(32, 0)), "block is one to three positive numbers"),
        (dict(block=2048), "a block has at most 1024 threads, 2048 were asked for"),
        (dict(shared_bytes=200_000), "k needs 200000 bytes of shared memory, sm_80 has 166912 per block"),
        (dict(grid=3, cluster=(2, 1, 1)), "is not a multiple of the cluster"),
        (dict(grid=32, cluster=(32, 1, 1)), r"at most 16 blocks, \(32, 1, 1\) has 32"),
        (dict(checks="some"), 'checks is "all", "none" or a set of'),
        (dict(checks={"races"}), "there is no check 'races'"),
    ],
)
def test_wrong_launches(options, message):
    call = {"kernel": "k", "grid": 1, "block": 32, "args": (X, np.uint32(4)), **options}
    with pytest.raises(TilecError, match=message):
        emulator.load(KERNEL).launch(**call)


def test_more_threads_than_compiled_for():
    ptx = KERNEL.replace(".param .u32 n)", ".param .u32 n) .maxntid 64, 1, 1")
    with pytest.raises(TilecError, match="k was compiled for at most 64 threads, 128 were given"):
        emulator.load(ptx).launch("k", 1, 128, (X, np.uint32(4)))


def test_clusters_that_the_code_asks_for():
    """The directive is enough; another extent is an error."""
    ptx = f"""{HEAD.replace("sm_80", "sm_90")}.visible .entry k(.param .u64 x) .reqnctapercluster 2, 1, 1 {{
    .reg .b32 %r; .reg .b64 %a; ld.param.u64 %a, [x]; mov.u32 %r, %cluster_nctarank;
    st.global.u32 [%a], %r; ret; }}"""
    for options in ({}, {"cluster": (2, 1, 1)}):
        x = np.zeros(1, np.uint32)
        emulator.load(ptx).launch("k", 2, 1, (x,), checks="none", **options)
        assert x[0] == 2
    with pytest.raises(TilecError, match=r"k was compiled for clusters of \(2, 1, 1\), not \(4, 1, 1\)"):
        emulator.load(ptx).launch("k", 4, 1, (X,), cluster=(4, 1, 1))
    with pytest.raises(TilecError, match="is not a multiple of the cluster"):
        emulator.load(ptx).launch("k", 3, 1, (X,))


def body(text):
    return KERNEL.replace("mov.u32 %r1, %tid.x;", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "frobnicate.u32 %r1, %r2;",
            r"PTX line 7: the emulator does not know the instruction 'frobnicate': 'frobn",
        ),
        ("add.s32.fast %r1, %r2, %r3;", r"PTX line 7: the emulator does not know modifier .fast on add"),
        ("add.s32 %r1, %r2;", "add takes 3 operands, here are 2"),
        ("add.f8 %r1, %r2, %r3;", "needs a type"),
        ("add.u64 %r1, %r2, %r3;", r"%r1@\d+ is declared .b32 and used as .u64"),
        ("mov.u32 %r1, %nosuch;", "the emulator does not know the register %nosuch"),
        ("mov.u32 %r1, nosuch;", "'nosuch' is not declared"),
        ("bra nowhere;", "label 'nowhere' is not defined"),
        (".nosuch 4;", "directive .nosuch in a function is not known"),
        ("call f;", "'f' is called and not defined"),
        ("bar.sync 16;", "there are barriers 0 to 15, not 16"),
        ("cvt.s32.f32 %r1, %r2;", "needs .rni .rzi .rmi or .rpi"),
        ("ld.global.u32 %r1, %r2;", "needs an address in brackets"),
        ("ld.global.v2.u32 %r1, [%r2];", "needs 2 registers in braces, here are 1"),
        ("mul.u32 %r1, %r2, %r3;", "needs one of lo, hi, wide"),
        ("mov.u32 %r1, `;", "cannot read '`;"),
        ("mov.u32 %r1, 5", "expected ','"),
    ],
)
def test_unknown_text_is_an_error_when_loaded(text, message):
    with pytest.raises(TilecError, match=message):
        emulator.load(body(text))


def test_recursion_is_an_error():
    ptx = HEAD + ".func f() { call f; ret; }\n.visible .entry k() { call f; ret; }\n"
    with pytest.raises(TilecError, match="'f' is recursive"):
        emulator.load(ptx)


def test_odd_but_valid_text():
    """Scopes with repeated labels and names, comments, decimal floats, sections, pragmas, odd layout."""
    ptx = (
        HEAD
        + """
    .file 1 "a.cu"
    .section .debug_str { .b8 1,2,3 }
    .visible .entry k(.param .u64 .ptr .global .align 4 out) .maxntid 64 .minnctapersm 2 { // a comment
    .pragma "nounroll"; .reg .b32 n, %r<3>; .reg .b64 a; .reg .f32 f; .loc 1 7 3
    mov.u32 n, 0x10U; /* another
    one */ mov.f32 f, 1.5e1; cvt.rzi.u32.f32 %r1, f;
    { .reg .pred p; .reg .b32 n; mov.u32 n, 3; setp.eq.u32 p, n, 3; @p bra L; mov.u32 %r1, 1; L: }
    { .reg .pred p; setp.eq.u32 p, n, 16; @!p bra L; add.u32 %r1, %r1, WARP_SZ; L: add.u32 %r1, %r1, -017; }
    ld.param.u64 a, [out]; st.global.u32 [a], %r1; ret; }
    """
    )
    out = np.zeros(1, np.uint32)
    report = emulator.load(ptx).launch("k", 1, 1, (out,))
    report.raise_if_any()
    assert out[0] == 15 + 32 - 0o17
    bad = emulator.load(ptx).launch("k", 1, 1, (np.uint64(0),))
    assert bad.findings[0].source == ("a.cu", 7) and "from a.cu:7" in str(bad.findings[0])


def test_the_alignment_of_a_pointer_is_that_of_what_it_points_at():
    """.ptr .align says nothing of where the parameter itself lies: a .u64 lies at a multiple of 8."""
    ptx = f"""{HEAD}.visible .entry k(.param .u32 n, .param .u64 .ptr .global .align {{}} x,
    .param .u32 .ptr m) {{{{ .reg .b64 %a; .reg .b32 %r<3>;
    ld.param.u64 %a, [x]; ld.param.u32 %r1, [n+16]; st.global.u32 [%a], %r1;
    ret; }}}}"""
    x = np.zeros(64, np.uint32)
    for align in (1, 4, 128):
        emulator.load(ptx.format(align)).launch("k", 1, 1, (np.uint32(1), x, np.uint32(7 + align)))
        assert x[0] == 7 + align
    emulator.load(ptx.format(4)).launch("k", 1, 1, (np.uint32(1), x[1:], np.uint32(5)))
    assert x[1] == 5
    whole = HEAD + ".visible .entry k(.param .u64 x, .param .u64 .ptr .global .align 16 y) { ret; }"
    with pytest.raises(TilecError, match=r"points at memory aligned to 16 bytes .* 4 bytes past"):
        emulator.load(whole).launch("k", 1, 1, (x, x[1:]))


def test_special_registers():
    names = ["tid.x", "tid.y", "tid.z", "ntid.x", "ntid.y", "ctaid.x", "ctaid.y", "nctaid.x", "nctaid.y",
             "laneid", "warpid", "lanemask_lt", "lanemask_ge"]  # fmt: skip
    text = "\n".join(
        f"mov.u32 %r1, %{name}; st.global.u32 [%a+{4 * i}], %r1;" for i, name in enumerate(names)
    )
    ptx = (
        HEAD
        + f""".visible .entry k(.param .u64 out) {{ .reg .b32 %r<9>; .reg .b64 %a, %b;
        mov.u32 %r2, %tid.x; mov.u32 %r3, %tid.y; mad.lo.u32 %r2, %r3, 8, %r2; mov.u32 %r3, %tid.z;
        mad.lo.u32 %r2, %r3, 48, %r2; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y; mad.lo.u32 %r4, %r5, 3,
        %r4;
        mad.lo.u32 %r2, %r4, 96, %r2; ld.param.u64 %b, [out]; mad.wide.u32 %a, %r2, {4 * len(names)}, %b;
        {text} ret; }}"""
    )
    out = np.zeros((6 * 96, len(names)), np.uint32)
    emulator.load(ptx).launch("k", (3, 2), (8, 6, 2), (out,)).raise_if_any()
    n = 0
    for cy in range(2):
        for cx in range(3):
            for z in range(2):
                for y in range(6):
                    for x in range(8):
                        t = x + 8 * y + 48 * z
                        lane = t % 32
                        expected = [x, y, z, 8, 6, cx, cy, 3, 2, lane, t // 32, (1 << lane) - 1,
                                    0xFFFFFFFF & ~((1 << lane) - 1)]  # fmt: skip
                        assert out[n].tolist() == expected
                        n += 1
