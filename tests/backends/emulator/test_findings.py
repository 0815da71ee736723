"""What the emulator must notice, and what it must not."""

import re

import numpy as np
import pytest

SHARED = ".shared .align 16 .b8 s[256]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 4, %a0;"


def kinds(report):
    return [(f.kind, f.warning) for f in report.findings]


def test_out_of_bounds(launch):
    x = np.zeros(30, np.uint32)
    report = launch("mad.wide.u32 %a0, %r0, 4, %p0; st.global.u32 [%a0], %r0;", (x,))
    (found,) = report.findings
    assert found.kind == "out-of-bounds" and found.array == "argument 0" and found.count == 2
    assert (found.block, found.warp, found.lane) == ((0, 0, 0), 0, 30)
    assert "0 bytes past the end of argument 0 (120 bytes)" in found.message
    assert x.tolist() == list(range(30)), "the lanes inside go on"
    with pytest.raises(Exception, match="out-of-bounds") as caught:
        report.raise_if_any()
    assert caught.value.report is report


def test_null_shared_and_local_bounds(launch):
    report = launch("mov.u64 %a0, 0; ld.global.u32 %r1, [%a0];")
    assert kinds(report) == [("out-of-bounds", False)]
    report = launch(SHARED + "st.shared.u32 [%a1+160], %r0;")
    assert kinds(report) == [("out-of-bounds", False)] and report.findings[0].lane == 24
    report = launch(".local .align 4 .b8 b[16]; mov.u64 %a0, b; st.local.u32 [%a0+16], %r0;")
    assert kinds(report) == [("out-of-bounds", False)]


def test_misaligned(launch):
    x = np.zeros(64, np.uint32)
    report = launch("ld.global.v2.u32 {%r1, %r2}, [%p0+4];", (x,))
    assert kinds(report) == [("misaligned", False)]


def test_uninitialised(launch):
    report = launch(
        SHARED + "setp.lt.u32 %q0, %r0, 31; @%q0 st.shared.u32 [%a1], %r0; ld.shared.u32 %r1, [%a1];"
    )
    assert kinds(report) == [("uninitialised", False)] and report.findings[0].array == "s"
    report = launch(".local .align 4 .b8 b[16]; mov.u64 %a0, b; ld.local.u32 %r1, [%a0+4];")
    assert kinds(report) == [("uninitialised", False)]


EXCHANGE = (
    SHARED
    + """
    st.shared.u32 [%a1], %r0;
    {first}
    sub.u32 %r1, 63, %r0; mad.wide.u32 %a2, %r1, 4, %a0; ld.shared.u32 %r2, [%a2];
    {second}
    st.shared.u32 [%a1], %r2;"""
)


def test_races(launch):
    assert kinds(launch(EXCHANGE.format(first="bar.sync 0;", second="bar.sync 0;"), block=64)) == []
    (raw,) = launch(EXCHANGE.format(first="", second="bar.sync 0;"), block=64).findings
    assert raw.kind == "race" and "reads s" in raw.message and raw.other is not None and raw.other < raw.line
    (war,) = launch(EXCHANGE.format(first="bar.sync 0;", second=""), block=64).findings
    assert war.kind == "race" and "overwrites s" in war.message and "after the read" in war.message


def test_race_within_a_warp_is_a_warning(launch):
    assert (
        kinds(
            launch(EXCHANGE.format(first="bar.warp.sync -1;", second="bar.warp.sync -1;").replace("63", "31"))
        )
        == []
    )
    (found,) = launch(EXCHANGE.format(first="", second="bar.warp.sync -1;").replace("63", "31")).findings
    assert found.kind == "race" and found.warning and "another lane of its warp" in found.message


def test_two_values_for_one_word(launch):
    (found,) = launch(SHARED + "st.shared.u32 [%a0], %r0;").findings
    assert found.warning and "two lanes of one instruction" in found.message
    assert kinds(launch(SHARED + "st.shared.u32 [%a0], 7;")) == []
    found = launch(SHARED + "st.shared.u32 [%a0], 7;", block=64).findings
    assert [f.warning for f in found] == [True] and "several warps write" in found[0].message
    found = launch(SHARED + "st.shared.u32 [%a0], %r0;", block=64).findings
    assert ("race", False) in [(f.kind, f.warning) for f in found]


def test_named_barriers_order(launch):
    """Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2: within a pair no race, across pairs
    one."""
    body = (
        SHARED
        + """
        st.shared.u32 [%a1], %r0; setp.lt.u32 %q0, %r0, 64; @%q0 bra low;
        bar.sync 2, 64; bra read; low: bar.sync 1, 64;
        read: xor.b32 %r1, %r0, {mask}; mad.wide.u32 %a2, %r1, 4, %a0; ld.shared.u32 %r2, [%a2];"""
    )
    body = body.replace("s[256]", "s[512]")
    assert kinds(launch(body.format(mask=32), block=128)) == []
    assert kinds(launch(body.format(mask=64), block=128)) == [("race", False)]


def test_producer_and_consumer_with_bar_arrive(launch):
    """Warp 0 writes and arrives; warp 1 waits and reads."""
    body = (
        SHARED
        + """
        setp.lt.u32 %q0, %r0, 32; @!%q0 bra consumer;
        st.shared.u32 [%a1], %r0; {arrive} bra out;
        consumer: {wait} ld.shared.u32 %r2, [%a1+-128]; out:"""
    )
    good = body.format(arrive="bar.arrive 3, 64;", wait="bar.sync 3, 64;")
    assert kinds(launch(good, block=64)) == []
    for seed in range(5):
        assert kinds(launch(good, block=64, seed=seed)) == []
    bad = body.format(arrive="", wait="")
    assert ("race", False) in kinds(launch(bad, block=64)) or ("uninitialised", False) in kinds(
        launch(bad, block=64)
    )
    stuck = launch(body.format(arrive="", wait="bar.sync 3, 64;"), block=64)
    assert [f.kind for f in stuck.findings] == ["deadlock"] and not stuck.completed
    assert "warps [1]" in stuck.findings[0].message and "barrier 3" in stuck.findings[0].message


def test_atomics_do_not_race(launch):
    body = (
        SHARED
        + """setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.u32 [%a0], 0; bar.sync 0;
        atom.shared.add.u32 %r1, [%a0], 1; {} ld.shared.u32 %r2, [%a0];"""
    )
    assert kinds(launch(body.format("bar.sync 0;"), block=64)) == []
    assert ("race", False) in kinds(launch(body.format(""), block=64))


def test_global_race_between_blocks(launch):
    x = np.zeros(64, np.uint32)
    body = "mov.u32 %r1, %ctaid.x; {} mad.wide.u32 %a0, %r2, 4, %p0; st.global.u32 [%a0], %r1;"
    assert kinds(launch(body.format("mad.lo.u32 %r2, %r1, 32, %r0;"), (x,), grid=2)) == []
    (found,) = launch(body.format("mov.u32 %r2, %r0;"), (x,), grid=2).findings
    assert found.kind == "global-race" and "blocks must not share data" in found.message
    (found,) = launch(body.format("mad.lo.u32 %r2, %r1, 31, %r0;"), (x,), grid=2).findings
    assert found.kind == "global-race" and found.count == 1


def test_checks_can_be_chosen(launch):
    x = np.zeros(64, np.uint32)
    body = "mad.wide.u32 %a0, %r0, 4, %p0; st.global.u32 [%a0], %r0;"
    assert kinds(launch(body, (x,), grid=2, checks="none")) == []
    assert kinds(launch(body, (x,), grid=2, checks={"race"})) == []
    assert kinds(launch(body, (x,), grid=2, checks={"global-race"})) == [("global-race", False)]


def test_divergent_barrier(launch):
    """bar.sync by half of a warp while the other half waits elsewhere."""
    report = launch(
        "setp.lt.u32 %q0, %r0, 16; @%q0 bra low; bar.sync 1, 32; bra out; low: bar.sync 2, 32; out:"
    )
    assert report.findings[0].kind == "divergence"


def test_exited_threads_are_not_waited_for(launch):
    assert kinds(launch("setp.ge.u32 %q0, %r0, 64; @%q0 exit; bar.sync 0;", block=128)) == []


def test_spinning_on_another_warp_ends(launch):
    """Warp 0 spins on a flag that warp 1 sets later in the code."""
    x = np.zeros(1, np.uint32)
    report = launch("""setp.ge.u32 %q0, %r0, 32; @%q0 bra set;
        spin: ld.global.relaxed.gpu.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; @%q1 bra spin; bra out;
        set: st.global.relaxed.gpu.u32 [%p0], 1; out:""".replace("ld.global.relaxed.gpu",
        "ld.relaxed.gpu.global")
        .replace("st.global.relaxed.gpu", "st.relaxed.gpu.global"), (x,), block=64)  # fmt: skip
    assert report.completed and kinds(report) == []


@pytest.mark.parametrize("flag", [0, 1])
def test_spinning_for_nobody_is_a_deadlock(launch, flag):
    """A flag that nobody sets; a loop that counts as it looks may end."""
    x = np.full(1, flag, np.uint32)
    body = """spin: ld.relaxed.gpu.global.u32 %r1, [%p0]; {count}
        setp.eq.u32 %q1, %r1, 0; @%q1 bra spin;"""
    report = launch(body.format(count=""), (x,), block=64)
    assert report.completed == bool(flag)
    assert [f.kind for f in report.findings] == ([] if flag else ["deadlock"])
    assert flag or "it sees the same for ever: does it wait for a block" in report.findings[0].message
    count = "add.u32 %r2, %r2, 1; setp.gt.u32 %q0, %r2, 9999; @%q0 exit;"
    assert launch(body.format(count=count), (x,), block=64).completed


def test_report_reads_well(launch):
    report = launch(EXCHANGE.format(first="", second="bar.sync 0;"), block=64)
    text = report.table()
    assert (
        "race: reads s at shared offset" in text and "with no synchronisation after the write at line" in text
    )
    assert "first in block (0, 0, 0), warp" in text and "thread instructions" in text


def test_findings_of_one_line_are_told_once(launch):
    """Unrolled: four reads of one source line that nobody wrote."""
    body = SHARED + ".loc 1 7 3\n" + "".join(f"ld.shared.u32 %r1, [%a0+{4 * n}];\n" for n in range(4))
    report = launch(".loc 1 6 1\n" + body)
    assert len(report.findings) == 4
    text = report.describe()
    assert text.count("uninitialised: reads s at shared offset 0") == 1 and "offset 4" not in text
    assert "and the same at 3 more instructions of that line (PTX " in text
    assert len(launch(body.replace(".loc 1 7 3", "")).describe().split("uninitialised")) == 5


def test_the_other_access_has_its_line_and_its_warp(launch):
    body = EXCHANGE.format(first=".loc 1 9 1\n", second="bar.sync 0;").replace(
        "st.shared", ".loc 1 8 1\nst.shared"
    )
    text = launch(body, block=64).describe()
    assert re.search(r"after the write at line \d+ \(st.shared.u32 .*\) of file 1:8 by warp [01]\n", text)
    assert "from file 1:9" in text


def test_arrays_by_the_names_of_the_source(launch):
    report = launch(SHARED.replace("s[", "_ZZ4softPfE4rows[").replace("%a0, s;", "%a0, _ZZ4softPfE4rows;")
                    + "ld.shared.u32 %r1, [%a1];")  # fmt: skip
    assert report.findings[0].array == "rows" and "reads rows at" in report.describe()
    x = np.zeros(30, np.uint32)
    report = launch("mad.wide.u32 %a0, %r0, 4, %p1; st.global.u32 [%a0], %r0;", (np.zeros(4, np.uint32), x))
    report.rename({"argument 1": "out"})
    assert report.findings[0].array == "out" and "past the end of out (120 bytes)" in str(report.findings[0])
    with pytest.raises(Exception, match=r"the emulator found 1 error\n"):
        report.raise_if_any()


def test_unexecuted_lines_are_listed(launch):
    report = launch("setp.gt.u32 %q0, %r0, 99; @%q0 bra far; bra out; far: mov.u32 %r1, 5; out:")
    assert [text for _, text in report.unexecuted] == ["@%q0 bra far;", "mov.u32 %r1, 5;"]
