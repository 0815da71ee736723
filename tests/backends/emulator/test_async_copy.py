"""cp.async: sizes and zero fill, and every way to forget a wait."""

import numpy as np
import pytest

START = """
    .shared .align 16 .b8 s[1024]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 16, %a0; mad.wide.u32 %a2, %r0,
    16, %p0; {copy}
    {wait}
    ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%a1]; mad.wide.u32 %a3, %r0, 16, %p1;
    st.global.v4.u32 [%a3], {{%r1, %r2, %r3, %r4}};"""
COMMIT, WAIT = "cp.async.commit_group;", "cp.async.wait_group 0;"
CG = "cp.async.cg.shared.global [%a1], [%a2], 16{};"


def run(launch, copy, wait, size=64, **options):
    x = np.random.default_rng(0).integers(0, 256, 16 * size, dtype=np.uint8)
    out = np.zeros(16 * size, np.uint8)
    return x, out, launch(START.format(copy=copy, wait=wait), (x, out), block=size, **options)


@pytest.mark.parametrize("wait", [COMMIT + WAIT, "cp.async.wait_all;"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_copy(launch, wait, seed):
    x, out, report = run(launch, CG.format(""), wait, seed=seed)
    assert not report.findings, report.describe()
    np.testing.assert_array_equal(out, x)


def test_zero_fill(launch):
    x, out, report = run(launch, "and.b32 %r5, %r0, 15;" + CG.format(", %r5"), COMMIT + WAIT)
    assert not report.findings, report.describe()
    for i in range(64):
        expected = x[i * 16 : i * 16 + i % 16].tolist() + [0] * (16 - i % 16)
        assert out[i * 16 : i * 16 + 16].tolist() == expected


def test_nothing_is_read_where_nothing_is_taken(launch):
    """A source size of 0, and a predicate that ignores the source, allow any address."""
    for last in (", 0", ", %q0"):
        copy = "setp.ge.u32 %q0, %r0, 0; mov.u64 %a2, 0;" + CG.format(last)
        _, out, report = run(launch, copy, COMMIT + WAIT)
        assert not report.findings, report.describe()
        assert not out.any()
    _, _, report = run(launch, "mov.u64 %a2, 0;" + CG.format(""), COMMIT + WAIT)
    assert {f.kind for f in report.findings} == {"out-of-bounds"}


def test_small_copies(launch):
    copy = "".join(f"cp.async.ca.shared.global [%a1+{n}], [%a2+{n}], 4;" for n in (0, 4))
    copy += "cp.async.ca.shared.global [%a1+8], [%a2+8], 8;"
    x, out, report = run(launch, copy, COMMIT + WAIT)
    assert not report.findings
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("wait", ["", COMMIT, "cp.async.wait_group 0;", COMMIT + "cp.async.wait_group 1;"])
def test_forgotten_wait(launch, wait):
    _, out, report = run(launch, CG.format(""), wait)
    (found,) = [f for f in report.findings if f.kind == "async"]
    assert "reads s" in found.message and "is still writing it: wait for it first" in found.message
    assert (out.view(np.uint32) == 0xFFFFFFFF).all(), "a missed wait ruins the numbers too"


def test_groups_land_in_order(launch):
    """With one group left in flight the first has landed, the second has not."""
    body = """
        .shared .align 16 .b8 s[1024]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 16, %a0;
        mad.wide.u32 %a2, %r0, 16, %p0;
        cp.async.cg.shared.global [%a1], [%a2], 16; cp.async.commit_group;
        cp.async.cg.shared.global [%a1+512], [%a2], 16; cp.async.commit_group;
        cp.async.wait_group 1; ld.shared.u32 %r1, [%a1{}];"""
    x = np.zeros(512, np.uint8)
    assert not launch(body.format(""), (x,)).findings
    assert [f.kind for f in launch(body.format("+512"), (x,)).findings] == ["async"]


def test_waiting_does_not_replace_the_barrier(launch):
    """Another thread's copy has landed for that thread only."""
    other = "xor.b32 %r5, %r0, 32; mad.wide.u32 %a1, %r5, 16, %a0;"
    x, out, report = run(launch, CG.format(""), COMMIT + WAIT + other)
    assert [f.kind for f in report.findings] == ["race"]
    x, out, report = run(launch, CG.format(""), COMMIT + WAIT + "bar.sync 0;" + other)
    assert not report.findings
    np.testing.assert_array_equal(out.reshape(2, -1), x.reshape(2, -1)[::-1])


def test_overwriting_a_buffer_that_is_still_read(launch):
    """The next copy into a buffer must wait until everybody has read it."""
    again = "xor.b32 %r5, %r0, 32; mad.wide.u32 %a4, %r5, 16, %a0; ld.shared.u32 %r6, [%a4]; {}" + CG.format(
        ""
    )
    for barrier, kinds in (("bar.sync 0;", []), ("", ["race"])):
        _, _, report = run(
            launch, CG.format(""), COMMIT + WAIT + "bar.sync 0;" + again.format(barrier) + COMMIT + WAIT
        )
        assert [f.kind for f in report.findings] == kinds


def test_wrong_sizes_are_errors(launch):
    with pytest.raises(Exception, match=r"cp\.async copies 4, 8 or 16 bytes, with \.cg 16"):
        launch("cp.async.cg.shared.global [%a1], [%a2], 8;")
