"""TMA: boxes in 1 to 5 dimensions, swizzles, fill, stores, reductions, plain bulk copies; what must be
waited for."""

import itertools

import numpy as np
import pytest

from tests.backends.emulator.conftest import assembled
from tilec.backends import emulator
from tilec.backends.emulator import TensorMap
from tilec.ir.errors import TilecError

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"


def kernel(rank, total, body, shared=32768):
    coordinates = "{" + ", ".join(f"%c{i}" for i in range(rank)) + "}"
    loads = "".join(f"ld.param.s32 %c{i}, [c{i}];" for i in range(rank))
    params = ", ".join(f".param .s32 c{i}" for i in range(rank))
    text = f"""{HEAD}.visible .entry k(.param .align 64 .b8 map[128], .param .u64 out, {params}) {{
        .reg .b64 %m, %o, %s, %bar, %a<9>; .reg .b32 %r<9>, %c<5>; .reg .pred %q<4>; .reg .b16 %h;
        .shared .align 1024 .b8 s[{shared}]; .shared .align 8 .b8 bar[8];
        mov.b64 %m, map; cvta.param.u64 %m, %m; ld.param.u64 %o, [out]; mov.u64 %s, s; mov.u64 %bar,
        bar; {loads}
        mov.u32 %r0, %tid.x; setp.eq.u32 %q0, %r0, 0; @%q0 mbarrier.init.shared.b64 [%bar], 1; bar.sync 0;
        {body.format(rank=rank, at=coordinates, total=total)} ret; }}"""
    assembled(text)
    return emulator.load(text)


LOAD = """@%q0 mbarrier.arrive.expect_tx.shared.b64 _, [%bar], {total};
    @%q0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%m, {at}],
    [%bar];
    """
WAIT = "wait: mbarrier.try_wait.parity.shared.b64 %q1, [%bar], 0; @!%q1 bra wait;"
COPY_OUT = """copy: ld.shared.u8 %h, [%s]; st.global.u8 [%o], %h; add.s64 %s, %s, 1; add.s64 %o, %o, 1;
    add.s32 %r1, %r1, 1; setp.lt.s32 %q2, %r1, {total}; @%q2 bra copy;"""
ONE = "setp.ne.u32 %q3, %r0, 0; @%q3 ret; mov.u32 %r1, 0;"


def box_by_definition(array, box, place):
    """Element by element: place counts innermost first, the result in the array's axis order."""
    out = np.zeros(box, array.dtype)
    for index in itertools.product(*(range(b) for b in box)):
        at = tuple(i + c for i, c in zip(index, place[::-1], strict=True))
        if all(0 <= a < n for a, n in zip(at, array.shape, strict=True)):
            out[index] = array[at]
    return out


def swizzled(raw, span):
    """Bytes of a box as they lie in shared memory from a 1024-byte boundary on."""
    out = np.zeros_like(raw)
    for n in range(len(raw)):
        out[n ^ (n >> 7 & {0: 0, 32: 1, 64: 3, 128: 7}[span]) << 4] = raw[n]
    return out


CASES = [
    ((64,), (16,), (8,)), ((64,), (32,), (-8,)), ((20, 24), (8, 8), (4, 3)), ((20, 24), (8, 16), (16, 15)),
    ((20, 24), (16, 8), (-8, -5)), ((6, 5, 16), (2, 3, 8), (8, 3, 5)), ((3, 4, 5, 8), (2, 2, 2, 8), (0, 4,
    3, 1)),
    ((2, 3, 2, 3, 8), (2, 2, 1, 2, 8), (0, 1, 1, 2, -1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "box", "place"), CASES)
@pytest.mark.parametrize("seed", [None, 0])
def test_load(shape, box, place, seed):
    array = np.random.default_rng(0).integers(1, 1 << 16, shape, dtype=np.uint16)
    total = int(np.prod(box)) * 2
    out = np.zeros(total, np.uint8)
    module = kernel(len(shape), total, LOAD + WAIT + ONE + COPY_OUT)
    report = module.launch("k", 1, 32, (TensorMap(array, box), out, *map(np.int32, place)), seed=seed)
    assert not report.findings, report.describe()
    np.testing.assert_array_equal(out.view(np.uint16).reshape(box), box_by_definition(array, box, place))


STRIDED = [
    ((20, 24), (8, 8), (4, 3), (2, 1)), ((20, 24), (7, 16), (16, 15), (3, 1)),
    ((6, 9, 16), (2, 8, 8), (8, 3, 5), (1, 4, 1)), ((6, 9, 16), (5, 3, 8), (-8, -2, -1), (2, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "box", "place", "steps"), STRIDED)
@pytest.mark.parametrize("fill", ["zero", "nan"])
def test_element_strides_and_fill(shape, box, place, steps, fill):
    """Every so many-th element of the box, side by side, and NaN where it leaves the array."""
    array = np.random.default_rng(0).integers(1, 1 << 14, shape, dtype=np.uint16)
    counts = tuple(-(-b // e) for b, e in zip(box, steps, strict=True))
    total = int(np.prod(counts)) * 2
    out = np.zeros(total, np.uint8)
    tensor_map = TensorMap(array, box, dtype=np.float16, element_strides=steps, oob_fill=fill)
    assert tensor_map.size == total
    module = kernel(len(shape), total, LOAD + WAIT + ONE + COPY_OUT)
    report = module.launch("k", 1, 32, (tensor_map, out, *map(np.int32, place)))
    assert not report.findings, report.describe()
    expected = box_by_definition(array, box, place)[tuple(slice(None, None, e) for e in steps)]
    if fill == "nan":
        expected = np.where(expected == 0, 0x7FFF, expected)
    np.testing.assert_array_equal(out.view(np.uint16).reshape(counts), expected)


@pytest.mark.parametrize(("swizzle", "span"), [("32B", 32), ("64B", 64), ("128B", 128)])
def test_swizzles(swizzle, span):
    box = (16, span // 2)
    array = np.random.default_rng(1).integers(0, 1 << 16, (40, 128), dtype=np.uint16)
    total = int(np.prod(box)) * 2
    out = np.zeros(total, np.uint8)
    module = kernel(2, total, LOAD + WAIT + ONE + COPY_OUT)
    module.launch("k", 1, 32, (TensorMap(array, box, swizzle), out, np.int32(8), np.int32(3))).raise_if_any()
    raw = np.ascontiguousarray(array[3 : 3 + box[0], 8 : 8 + box[1]]).reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(out, swizzled(raw, span))


FILL = """fill: mad.wide.u32 %a1, %r0, 2, %s; cvt.u16.u32 %h, %r0; st.shared.u16 [%a1], %h; add.u32 %r0,
%r0, 32;
    setp.lt.u32 %q2, %r0, {total}/2; @%q2 bra fill; {fence} bar.sync 0;""".replace("{total}/2", "128")
STORE = "@%q0 cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%m, {at}], [%s];"
DONE = "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"


def store(body, place=(8, 3), dtype=np.uint16, **options):
    array = np.zeros((20, 24), dtype)
    module = kernel(2, 256, body)
    report = module.launch(
        "k", 1, 32, (TensorMap(array, (8, 16)), np.uint64(0), *map(np.int32, place)), **options
    )
    return array, report


@pytest.mark.parametrize("place", [(0, 0), (8, 3), (16, 15), (-8, -2)])
def test_store_leaves_out_what_lies_outside(place):
    array, report = store(FILL.replace("{fence}", "fence.proxy.async.shared::cta;") + STORE + DONE, place)
    assert not report.findings, report.describe()
    expected = np.zeros((20, 24), np.uint16)
    for n, (i, j) in enumerate(itertools.product(range(8), range(16))):
        if 0 <= i + place[1] < 20 and 0 <= j + place[0] < 24:
            expected[i + place[1], j + place[0]] = n
    np.testing.assert_array_equal(array, expected)


def test_store_needs_the_proxy_fence_and_its_wait():
    _, report = store(FILL.replace("{fence}", "") + STORE + DONE)
    (found,) = report.findings
    assert found.kind == "async" and not found.warning and "no fence.proxy.async between" in found.message
    fenced = FILL.replace("{fence}", "fence.proxy.async;")
    for end in ("", "cp.async.bulk.commit_group;", "cp.async.bulk.wait_group 0;"):
        _, report = store(fenced + STORE + end)
        assert "still reads shared memory" in report.describe()
    _, report = store(fenced + STORE + "cp.async.bulk.commit_group; st.shared.u16 [%s], %h;" + DONE)
    assert "overwrites s" in report.describe() and "is still reading it" in report.describe()


def test_reduction():
    reduce = STORE.replace("cp.async", "cp.reduce.async").replace("shared::cta.bulk", "shared::cta.add.bulk")
    array, report = store(FILL.replace("{fence}", "fence.proxy.async;") + reduce + reduce + DONE, (0, 0))
    assert not report.findings, report.describe()
    np.testing.assert_array_equal(array[:8, :16], 2 * np.arange(128).reshape(8, 16))


def test_reading_before_the_wait():
    array = np.ones((20, 24), np.uint16)
    out = np.zeros(256, np.uint8)
    module = kernel(2, 256, LOAD + ONE + COPY_OUT)
    report = module.launch("k", 1, 32, (TensorMap(array, (8, 16)), out, np.int32(0), np.int32(0)))
    assert "async" in {f.kind for f in report.errors} and (out == 0xFF).all()


@pytest.mark.parametrize("fence", ["", "fence.proxy.async;"])
def test_overwriting_what_threads_wrote(fence):
    module = kernel(2, 256, f"@%q0 st.shared.u32 [%s], %r0; {fence} bar.sync 0;" + LOAD + WAIT)
    args = (TensorMap(np.ones((20, 24), np.uint16), (8, 16)), np.zeros(256, np.uint8), *map(np.int32, (0, 0)))
    found = [f.message for f in module.launch("k", 1, 64, args).findings]
    text = "the asynchronous proxy overwrites s at shared offset 0, written at line 10 ("
    assert not found if fence else [text in each for each in found] == [True], found


@pytest.mark.parametrize(("count", "kind"), [(128, "async"), (512, "deadlock")])
def test_wrong_byte_counts(count, kind):
    module = kernel(2, 256, LOAD.replace("{total}", str(count)) + WAIT + ONE + COPY_OUT)
    out = np.zeros(256, np.uint8)
    report = module.launch(
        "k", 1, 32, (TensorMap(np.ones((20, 24), np.uint16), (8, 16)), out, np.int32(0), np.int32(0))
    )
    assert kind in {f.kind for f in report.findings} or not report.completed


def test_misaligned_destination():
    module = kernel(2, 256, "add.s64 %s, %s, 64;" + LOAD + WAIT)
    out = np.zeros(256, np.uint8)
    report = module.launch(
        "k", 1, 32, (TensorMap(np.ones((20, 24), np.uint16), (8, 16)), out, np.int32(0), np.int32(0))
    )
    assert report.findings[0].kind == "misaligned"


BULK = (
    """@%q0 mbarrier.arrive.expect_tx.shared.b64 _, [%bar], 256;
    @%q0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%o], 256, [%bar];
    wait: mbarrier.try_wait.parity.shared.b64 %q1, [%bar], 0; @!%q1 bra wait;
    add.s64 %a1, %o, 256; @%q0 cp.async.bulk.global.shared::cta.bulk_group [%a1], [%s], 256;
    @%q0 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%a1], [%s], 256;"""
    + DONE
)


def test_plain_bulk_copies():
    x = np.arange(128, dtype=np.uint32)
    report = kernel(1, 256, BULK).launch("k", 1, 32, (TensorMap(x, (16,)), x, np.int32(0)))
    assert not report.findings, report.describe()
    np.testing.assert_array_equal(x, np.concatenate([np.arange(64), 2 * np.arange(64)]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: TensorMap(x, (8, 4)), "8 bytes, which is not a multiple of 16"),
        (lambda x: TensorMap(x, (8, 8, 8)), "the box has 3 extents, the array 2 dimensions"),
        (lambda x: TensorMap(x, (300, 8)), "box extents are 1 to 256, not 300"),
        (lambda x: TensorMap(x, (8, 128), "128B"), "256 bytes, more than the 128B of its swizzle"),
        (lambda x: TensorMap(x, (8, 8), "256B"), "swizzle is one of none, 32B, 64B, 128B, not '256B'"),
        (lambda x: TensorMap(x[:, ::2], (8, 8)), "last axis of a tensor map's array must be contiguous"),
        (
            lambda x: TensorMap(np.zeros((4, 3), np.uint16), (2, 8)),
            "stride 6 of axis 0 is not a multiple of 16 bytes",
        ),
        (lambda x: TensorMap(np.zeros((1,) * 6, np.uint16), (1,) * 6), "1 to 5 dimensions, the array has 6"),
        (lambda x: TensorMap(x, (8, 8), element_strides=(1, 2)), "ignores the last axis's element stride"),
        (lambda x: TensorMap(x, (8, 8), element_strides=(9, 1)), "are 2 numbers from 1 to 8, not "),
        (lambda x: TensorMap(x, (8, 8), element_strides=(1,)), "are 2 numbers from 1 to 8, not "),
        (lambda x: TensorMap(x, (8, 8), oob_fill="one"), "oob_fill is .zero. or .nan., not 'one'"),
        (lambda x: TensorMap(x, (8, 8), oob_fill="nan"), "NaN fill needs a float element type, not uint16"),
    ],
)
def test_boxes_out_of_rule(make, message):
    with pytest.raises(TilecError, match=message):
        make(np.zeros((64, 256), np.uint16))


def test_arrays_and_maps_start_where_the_hardware_takes_them():
    x, zero = np.zeros((64, 64), np.uint16), np.int32(0)
    with pytest.raises(
        TilecError, match="of an array that starts 2 bytes past a multiple of 16"
    ):
        kernel(2, 256, LOAD + WAIT).launch("k", 1, 32, (TensorMap(x[:, 1:], (8, 16)), x, zero, zero))
    text = f"""{HEAD}.visible .entry k(.param .u64 x, .param .b8 map[128]) {{
        .reg .b64 %m; .reg .pred %q; .shared .align 128 .b8 s[256]; .shared .align 8 .b8 bar[8];
        mov.b64 %m, map; cvta.param.u64 %m, %m; mbarrier.init.shared.b64 [bar], 1;
        mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;
        cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%m, {{0, 0}}],
        [bar]; wait: mbarrier.try_wait.parity.shared.b64 %q, [bar], 0; @!%q bra wait; ret; }}"""
    (found,) = emulator.load(text).launch("k", 1, 1, (x, TensorMap(x, (8, 16)))).findings
    assert found.kind == "misaligned" and "which is not a multiple of 64" in found.message


@pytest.mark.parametrize("kind", ["box", "bytes"])
def test_loads_of_what_another_block_writes(kind):
    """Block 1 writes 16 bytes of what block 0 loads: nothing orders the two."""
    load = LOAD if kind == "box" else BULK.split("add.s64")[0]
    write = "mov.u32 %r2, %ctaid.x; setp.eq.and.u32 %q2, %r2, 1, %q0; @%q2 st.global.u32 [%o+{}], %r2;"
    x = np.zeros(512, np.uint32)
    module = kernel(1, 256, load + (WAIT if kind == "box" else "") + write.format(4))
    report = module.launch("k", 2, 32, (TensorMap(x, (64,)), x, np.int32(0)))
    assert {f.kind for f in report.findings} == {"global-race"}, report.describe()
    module = kernel(1, 256, load + (WAIT if kind == "box" else "") + write.format(1024))
    assert not module.launch("k", 2, 32, (TensorMap(x, (64,)), x, np.int32(0))).findings
    first = "mov.u32 %r2, %ctaid.x; setp.eq.and.u32 %q2, %r2, 1, %q0; @%q2 st.global.u32 [%o+8], %r2;"
    module = kernel(1, 256, first + load + (WAIT if kind == "box" else ""))
    report = module.launch("k", 2, 32, (TensorMap(x, (64,)), x, np.int32(0)))
    assert "reads byte" in report.describe() and {f.kind for f in report.findings} == {"global-race"}
