"""Every form that the emulator refuses, it refuses when the text is loaded, with a message that says why."""

import numpy as np
import pytest

from tilec.backends import emulator
from tilec.ir.errors import TilecError

HEAD = ".version 8.7\n.target sm_100a\n.address_size 64\n"
REGISTERS = ".reg .b32 %r<9>; .reg .b64 %a<9>; .reg .f32 %f<40>; .reg .pred %p<4>; .reg .b16 %h<4>;"
FOUR = "{%f0, %f1, %f2, %f3}"


def kernel(text, before=""):
    return f"{HEAD}{before}\n.visible .entry k(.param .u64 x)\n{{\n{REGISTERS}\n{text}\nret;\n}}\n"


BULK = "mbarrier::complete_tx::bytes"
STATEMENTS = [
    ("red.async.relaxed.cluster.shared::cluster.u32 [%a1], %r1;", "red.async is not known"),
    ("atom.global.and.f32 %f1, [%a1], %f2;", "and on .f32 is not an atomic operation"),
    ("lop3.b32 %r1, %r2, %r3, %r4, %r5;", "lop3 needs its table as a constant"),
    ("cp.async.bulk.shared::cluster [%a1], [%a2], 16, [%a3];", "needs two state spaces"),
    (f"cp.async.bulk.global.global.{BULK} [%a1], [%a2], 16, [%a3];", "cannot copy from global to global"),
    (
        f"cp.reduce.async.bulk.shared::cluster.global.{BULK}.add.u32 [%a1], [%a2], 16, [%a3];",
        "reductions into shared",
    ),
    ("setp.lt.f16x2 %p1, %r1, %r2;", "a packed comparison gives two predicates"),
    ("set.u32.s32 %r1, %r2, %r3;", "needs a comparison"),
    ("selp.pred %p1, %p2, %p3, %p1;", "selp on predicates is not an instruction"),
    ("brx.idx %r1, nowhere;", "brx.idx needs a .branchtargets list"),
    ("cvt.rs.f16x2.f32 %r1, %f1, %f2, %r2;", "modifier|stochastic"),
    ("cvt.rn.f16x2.f32 %r1, %f1, %f2, %r2;", "stochastic rounding is not known"),
    ("cvt.rn.scaled::n2::ue8m0.f16x2.e4m3x2 %r1, %h1, %h2;", "scaled conversions are not known"),
    ("cvt.pack.sat.u4.s32.b32 %r1, %r2, %r3, %r4;", "cvt.pack to 4 or 2 bits"),
    ("mov.u32 %r1, _;", "_ cannot be read"),
    ("popc.u32 %r1, %r2;", "popc on .u32 is not an instruction that the emulator knows"),
    ("min.xorsign.f32 %f1, %f2, %f3;", "xorsign goes with .abs"),
    ("mbarrier.pending_count.b64 %r1, %a1;", "the state is opaque"),
    ("ld.global.b128 %a1, [%a2];", ".b128 loads are not known"),
    ("st.global.b128 [%a2], %a1;", ".b128 stores are not known"),
    ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1}, [%a1];", "wmma is not known to the emulator"),
    (
        f"mma.sync.aligned.m16n8k8.row.col.f32.u2.u2.f32 {FOUR}, {{%r1}}, {{%r2}}, {FOUR};",
        "mma.sync on f32, u2",
    ),
    (
        f"mma.sync.aligned.m16n8k4.row.col.f32.f16.f16.f32 {FOUR}, {{%r1}}, {{%r2}}, {FOUR};",
        "mma.sync m16n8k4 on f16",
    ),
    ("bra 5;", "needs a label"),
    ("setmaxnreg.inc.sync.aligned.u32 20;", "a multiple of 8 from 24 to 256"),
    (
        f"cp.async.bulk.tensor.2d.{BULK} [%a1], [%a2, {{%r1, %r2}}], [%a3];",
        "cannot copy from|needs two state spaces",
    ),
    (
        f"cp.async.bulk.tensor.2d.global.global.{BULK} [%a1], [%a2, {{%r1, %r2}}], [%a3];",
        "cannot copy from global",
    ),
    (
        f"cp.async.bulk.tensor.2d.shared::cluster.global.{BULK} [%a1], [%a2], [%a3];",
        r"needs \[tensor map, {coord",
    ),
    (
        f"cp.async.bulk.tensor.4d.shared::cluster.global.im2col.{BULK} [%a1], "
        "[%a2, {%r1, %r2, %r3, %r4}], [%a3], {%h1, %h2};",
        r"PTX line \d+: \.im2col copies are not known .*: 'cp\.async\.bulk\.tensor",
    ),
    (
        f"cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.{BULK} [%a1], "
        "[%a2, {%r1, %r2, %r3, %r4, %r5}], [%a3];",
        ".tile::gather4 copies are not known",
    ),
    ("shfl.up.b32 %r1, %r2, 1, 0;", "shfl without .sync"),
    ("vote.all.pred %p1, %p2;", "vote without .sync"),
    ("match.any.b32 %r1, %r2, -1;", "match needs .sync"),
    ("redux.add.u32 %r1, %r2, -1;", "redux needs .sync"),
    ("elect %r1|%p1, -1;", "elect needs .sync"),
    ("elect.sync %r1, -1;", r"elect gives d\|p"),
    ("wgmma.mma_async.sync.aligned.f32.f16.f16 {%f0}, %a1, %a2, %p1, 1, 1;", "needs a shape m64nNkK"),
    (
        "wgmma.mma_async.sync.aligned.m64n12k16.f32.f16.f16 {%f0}, %a1, %a2, %p1, 1, 1;",
        "is not a wgmma shape",
    ),
    (
        "wgmma.mma_async.sync.aligned.m64n8k16.f64.f16.f16 {%f0}, %a1, %a2, %p1, 1, 1;",
        "does not know wgmma on these",
    ),
    (
        f"wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {FOUR}, %a1, %a2, %r1, 2, %p1, 1, 1, 0, 0;",
        "the sparsity selector of this shape is a constant from 0 to 1",
    ),
    (
        f"wgmma.mma_async.sp.sync.aligned.m64n8k16.f32.f16.f16 {FOUR}, %a1, %a2, %r1, 0, %p1, 1, 1, 0, 0;",
        "is not a wgmma shape",
    ),
    (
        f"wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {FOUR}, %a1, %a2, %p1, 1, 1, 1, 0;",
        "only 16-bit types",
    ),
    ("p: .callprototype _ (.param .b32 q);", "indirect calls are not known"),
    (".reg .q32 %z;", "register type .q32 is not known"),
    ("%r1 = 5;", "expected an instruction, found '%r1'"),
    ("mov.u32 %r1, ,;", "expected an operand, found ','"),
    ("ld.global.u32 %r1, [%a1+x];", "expected a number, found 'x'"),
]


@pytest.mark.parametrize(("text", "message"), STATEMENTS)
def test_statement(text, message):
    with pytest.raises(TilecError, match=message) as caught:
        emulator.load(kernel(text))
    assert "PTX line" in str(caught.value)


F = ".func (.param .b32 r) f(.param .b32 a) { .reg .b32 %q; mov.u32 %q, 1; st.param.b32 [r], %q; ret; }"


@pytest.mark.parametrize(
    ("text", "before", "message"),
    [
        (".param .b32 r0; call (r0), f, ();", F, "the function takes 1 parameters, here are 0"),
        (".param .b32 r0; call (r0), f, (%r1);", F, "parameters of calls must be .param variables"),
        ("", ".func f(.reg .b32 a) { ret; }", "register parameters of functions are not known"),
        ("", ".alias a, b;", ".alias is not known"),
        ("", ".nosuch 5;", "'.nosuch' is not a directive that the emulator knows"),
        ("", ".global .align 4 .weird .u32 x;", "'.weird' in a declaration is not known"),
    ],
)
def test_module(text, before, message):
    with pytest.raises(TilecError, match=message):
        emulator.load(kernel(text, before))


def test_text_that_ends_early():
    with pytest.raises(TilecError, match="the text ends in the middle of a statement"):
        emulator.load(kernel("mov.u32 %r1, 5;").rsplit("ret", 1)[0])


def test_tensor_map_for_a_small_parameter():
    ptx = kernel("").replace(".param .u64 x", ".param .u32 x")
    tensor_map = emulator.TensorMap(np.zeros((8, 8), np.uint16), (8, 8))
    with pytest.raises(TilecError, match="has 4 bytes; a tensor map takes 128, or 8 for its address"):
        emulator.load(ptx).launch("k", 1, 32, (tensor_map,))
