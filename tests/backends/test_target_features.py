"""A target has what the assembler takes for it: every feature, matrix product and atomic, held to ptxas."""

import re

import pytest

from tilec.backends.ptx.assemble import assemble, find
from tilec.ir.errors import TilecError
from tilec.ir.target import FEATURES, TARGETS, Mma, Target

pytestmark = pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
GPUS = [t for t in TARGETS.values() if t.kind == "ptx"]
each_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)

FRAME = """.version {version}
.target {name}
.address_size 64
.visible .entry k(.param .u64 p)
{{
 .reg .b8 b; .reg .b16 h<9>; .reg .b32 r<32>; .reg .f32 f<32>;
 .reg .b64 d<9>; .reg .f64 g<32>; .reg .pred q<4>;
 .shared .align 128 .b8 s[1024];
 ld.param.u64 d0, [p];
 {body}
 ret;
}}
"""

SPELLING = {
    "cp_async": "cp.async.cg.shared.global [s], [d0], 16;",
    "ldmatrix": "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {r0, r1, r2, r3}, [s];",
    "stmatrix": "stmatrix.sync.aligned.m8n8.x2.shared.b16 [s], {r0, r1};",
    "mma": "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {r0, r1}, {r2}, {r3}, {r0, r1};",
    "wgmma": "wgmma.fence.sync.aligned;",
    "tma": "cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [d0, {r0}], [s];",
    "mbarrier": "mbarrier.init.shared.b64 [s], 1;",
    "mbarrier_wait": "mbarrier.try_wait.parity.shared.b64 q0, [s], r0;",
    "clusters": "barrier.cluster.arrive; barrier.cluster.wait; mapa.shared::cluster.u32 r0, r1, r2;",
    "setmaxnreg": "setmaxnreg.inc.sync.aligned.u32 232;",
    "elect": "elect.sync r0|q0, 0xffffffff;",
    "bf16_fma": "fma.rn.bf16x2 r0, r1, r2, r3; max.bf16x2 r0, r0, r1;",
    "bf16_arithmetic": "add.rn.bf16x2 r0, r1, r2; mul.rn.bf16 h0, h1, h2; sub.rn.bf16x2 r0, r1, r2;",
    "f32x2": "fma.rn.f32x2 d0, d1, d2, d3; add.rn.f32x2 d0, d1, d2;",
    "redux": "redux.sync.add.s32 r0, r1, 0xffffffff;",
    "redux_f32": "redux.sync.max.f32 f0, f1, 0xffffffff;",
    "cvt_tf32": "cvt.rna.tf32.f32 r0, f0;",
    "cvt_bf16x2": "cvt.rn.bf16x2.f32 r0, f0, f1; cvt.rn.f16x2.f32 r0, f0, f1;",
    "cvt_f8": "cvt.rn.satfinite.e4m3x2.f16x2 h0, r0; cvt.rn.f16x2.e5m2x2 r0, h0;",
    "cvt_f6": "cvt.rn.satfinite.e2m3x2.f32 h0, f0, f1; cvt.rn.f16x2.e3m2x2 r0, h0;",
    "cvt_f4": "cvt.rn.satfinite.e2m1x2.f32 b, f0, f1; cvt.rn.f16x2.e2m1x2 r0, b;",
    "approx_bf16": "ex2.approx.ftz.bf16x2 r0, r1; tanh.approx.bf16 h0, h1;",
    "vector_red": "red.global.add.v4.f32 [d0], {f0, f1, f2, f3};",
}
ATOMIC_ADD = {
    "i32": "atom.global.add.s32 r0, [d0], r1;",
    "u32": "atom.global.add.u32 r0, [d0], r1;",
    "i64": "atom.global.add.u64 d2, [d0], d1;",
    "u64": "atom.global.add.u64 d2, [d0], d1;",
    "f16": "atom.global.add.noftz.f16 h0, [d0], h1;",
    "bf16": "atom.global.add.noftz.bf16 h0, [d0], h1;",
    "f32": "atom.global.add.f32 f0, [d0], f1;",
    "f64": "atom.global.add.f64 g0, [d0], g1;",
}
PTX_NAME = {"f8e4m3": "e4m3", "f8e5m2": "e5m2", "i8": "s8", "i4": "s4", "i32": "s32"}
BITS = {"bf16": 16, "tf32": 32, "f8e4m3": 8, "f8e5m2": 8}


def accepts(gpu: Target, body: str) -> bool:
    try:
        assemble(FRAME.format(version=gpu.ptx_version / 10, name=gpu.name, body=body), gpu)
    except TilecError as error:
        assert re.search(r"requires|not supported|cannot be compiled", str(error)), error
        return False
    return True


def registers(dtype: str, elements: int, first: int = 0) -> str:
    """The registers of one lane's share of a fragment: {r0, r1}; {f0, f1} for f32, {g0} for f64."""
    bits = BITS.get(dtype) or int(dtype[1:])
    letter = {"f32": "f", "f64": "g"}.get(dtype, "r")
    count = elements * bits // 32 // max(32, bits)
    return f"{{{', '.join(f'{letter}{first + i}' for i in range(count))}}}"


def spelled(kind: Mma) -> str:
    acc, a, b = (PTX_NAME.get(dtype, dtype) for dtype in (kind.acc, kind.a, kind.b))
    c = registers(kind.acc, kind.m * kind.n, 20)
    operands = [c, registers(kind.a, kind.m * kind.k), registers(kind.b, kind.k * kind.n, 10), c]
    return f"mma.sync.aligned.{kind.name}.row.col.{acc}.{a}.{b}.{acc} {', '.join(operands)};"


@each_gpu
@pytest.mark.parametrize("feature", FEATURES)
def test_features_are_the_assemblers(gpu: Target, feature: str) -> None:
    assert accepts(gpu, SPELLING[feature]) == gpu.has(feature)


@each_gpu
def test_matrix_products_are_the_assemblers(gpu: Target) -> None:
    everyones = {kind for t in GPUS for kind in t.mma}
    assert {kind for kind in everyones if accepts(gpu, spelled(kind))} == set(gpu.mma)


def spelled_sparse(kind: Mma) -> str:
    """The same with half of a's registers, and a word that says where they belong."""
    half = spelled(kind).replace("mma.sync", "mma.sp.sync")
    a = registers(kind.a, kind.m * kind.k)
    return half.replace(a, registers(kind.a, kind.m * kind.k // 2), 1)[:-1] + ", r30, 0x0;"


@each_gpu
def test_sparse_products_are_the_assemblers(gpu: Target) -> None:
    everyones = {kind for t in GPUS for kind in t.mma_sparse}
    assert {kind for kind in everyones if accepts(gpu, spelled_sparse(kind))} == set(gpu.mma_sparse)


def spelled_group(kind: Mma) -> str:
    """By warpgroups, a in registers."""
    acc, a, b = (PTX_NAME.get(dtype, dtype) for dtype in (kind.acc, kind.a, kind.b))
    sums = registers(kind.acc, 64 * kind.n // 4, 20)
    signs = "" if acc == "s32" else ", 1, 1, 0" if BITS.get(kind.a, 16) == 16 else ", 1, 1"
    operands = f"{sums}, {{r0, r1, r2, r3}}, d0, r30, 0, q0{signs}"
    return f"wgmma.mma_async.sp.sync.aligned.{kind.name}.{acc}.{a}.{b} {operands};"


@each_gpu
def test_sparse_products_of_warpgroups_are_the_assemblers(gpu: Target) -> None:
    everyones = {kind for t in GPUS for kind in t.wgmma_sparse}
    assert {kind for kind in everyones if accepts(gpu, spelled_group(kind))} == set(gpu.wgmma_sparse)


@each_gpu
def test_atomics_are_the_assemblers(gpu: Target) -> None:
    assert {dtype for dtype, body in ATOMIC_ADD.items() if accepts(gpu, body)} == gpu.atomic_add
