"""mbarrier: phases, parities, byte counts, misuse, deadlocks; cp.async's arrivals."""

import numpy as np
import pytest

BAR = """.shared .align 8 .b8 bar[16]; .shared .align 16 .b8 s[512]; .reg .b64 %st;
    mov.u64 %a0, bar; mov.u64 %a1, s; mad.wide.u32 %a2, %r0, 4, %a1; setp.eq.u32 %q0, %r0, 0;
    @%q0 mbarrier.init.shared.b64 [%a0], {count}; bar.sync 0;
    {body}"""
WAIT = "wait{0}: mbarrier.try_wait.parity.shared.b64 %q1, [%a0], {0}; @!%q1 bra wait{0};"


def run(launch, body, count=64, block=64, args=(), **options):
    return launch(BAR.format(count=count, body=body), args, block=block, **options)


def kinds(report):
    return [(f.kind, f.warning) for f in report.findings]


def test_a_phase_orders_memory(launch):
    """Everybody writes and arrives; whoever waits may read what others wrote."""
    body = """st.shared.u32 [%a2], %r0; {arrive} {wait}
        xor.b32 %r1, %r0, 32; mad.wide.u32 %a3, %r1, 4, %a1; ld.shared.u32 %r2, [%a3];
        mad.wide.u32 %a4, %r0, 4, %p0; st.global.u32 [%a4], %r2;"""
    arrive, wait = "mbarrier.arrive.shared.b64 %st, [%a0];", WAIT.format(0)
    out = np.zeros(64, np.uint32)
    for seed in (None, 0, 1, 2):
        report = run(launch, body.format(arrive=arrive, wait=wait), args=(out,), seed=seed)
        assert not report.findings, report.describe()
        assert out.tolist() == [i ^ 32 for i in range(64)]
    assert ("race", False) in kinds(run(launch, body.format(arrive=arrive, wait=""), args=(out,)))


def test_waiting_by_state(launch):
    body = """mbarrier.arrive.shared.b64 %st, [%a0];
        again: mbarrier.test_wait.shared.b64 %q1, [%a0], %st; @!%q1 bra again;"""
    for seed in (None, 3):
        report = run(launch, body, seed=seed)
        assert report.completed and not report.findings, report.describe()


def test_parity_one_passes_on_a_fresh_barrier(launch):
    report = run(launch, WAIT.format(1))
    assert report.completed and not report.findings


def test_two_phases_in_one_instruction(launch):
    """64 arrivals at a barrier of 32 are two phases: parity is back at 0."""
    body = "mbarrier.arrive.shared.b64 %st, [%a0];" + WAIT.format(1)
    assert run(launch, body, 32).completed


@pytest.mark.parametrize("space", ["shared", "shared::cluster"])
def test_dropped_arrivals_are_not_expected_again(launch, space):
    """One thread drops 32 of 64; in the second phase the other warp's 32 arrivals are enough."""
    drop = f"@%q0 mbarrier.arrive_drop.{space}.b64 _, [%a0], {{}};"
    body = drop + "setp.lt.u32 %q2, %r0, 32; @%q2 bra rest; mbarrier.arrive.shared.b64 %st, [%a0];"
    body += (
        WAIT.format(0)
        + "mbarrier.arrive.shared.b64 %st, [%a0]; rest:"
        + WAIT.format(1).replace("wait1", "last")
    )
    for seed in (None, 0):
        report = run(launch, body.format(32), seed=seed)
        assert report.completed and not report.findings, report.describe()
    (found,) = [f for f in run(launch, body.format(31)).findings if f.kind == "deadlock"]
    assert "1 arrivals and 0 bytes are missing" in found.message
    one = f"mbarrier.arrive_drop.expect_tx.{space}.b64 _, [%a0], 64;".replace("mbarrier", "@%q0 mbarrier")
    report = run(launch, one + "@!%q0 mbarrier.arrive.shared.b64 %st, [%a0];" + WAIT.format(0))
    assert "0 arrivals and 64 bytes are missing" in report.findings[0].message


def test_expected_bytes_hold_a_phase_back(launch):
    body = """@%q0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%a0], 64; bar.sync 0;
        mbarrier.arrive.shared.b64 %st, [%a0];
        {complete}""" + WAIT.format(0)
    complete = "@%q0 mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%a0], 64;"
    assert run(launch, body.format(complete=complete)).completed
    report = run(launch, body.format(complete=""))
    assert [f.kind for f in report.findings] == ["deadlock"]
    assert "0 arrivals and 64 bytes are missing" in report.findings[0].message


@pytest.mark.parametrize(("count", "fine"), [(1 << 19, True), (1 << 20, False)])
def test_more_bytes_than_a_barrier_counts(launch, count, fine):
    body = f"@%q0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%a0], {count - 1};"
    found = [f.message for f in run(launch, body + body.replace(str(count - 1), "1")).findings]
    text = "the mbarrier at shared offset 0 is to count 1048576 bytes: it counts 1048575"
    assert found == ([] if fine else [text])


def test_missing_arrival_is_a_deadlock_that_says_who_waits(launch):
    body = "@!%q0 mbarrier.arrive.shared.b64 %st, [%a0];" + WAIT.format(0)
    (found,) = run(launch, body).findings
    assert found.kind == "deadlock" and "1 arrivals and 0 bytes are missing" in found.message
    assert "warps [0, 1]" in found.message and "mbarrier.try_wait" in found.message


def test_one_arrival_too_many(launch):
    """While bytes are missing the phase cannot end, so a 65th arrival is a mistake."""
    body = """@%q0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%a0], 64; bar.sync 0;
        mbarrier.arrive.shared.b64 %st, [%a0]; @%q0 mbarrier.arrive.shared.b64 %st, [%a0];"""
    (found,) = run(launch, body).findings
    assert found.kind == "async" and "one arrival too many" in found.message


def test_use_before_initialisation(launch):
    report = launch(".shared .align 8 .b8 bar[8]; .reg .b64 %st; mov.u64 %a0, bar; setp.eq.u32 %q0, %r0, 0;"
                    "@%q0 mbarrier.arrive.shared.b64 %st, [%a0];")  # fmt: skip
    assert ("async", False) in kinds(report) and "was not initialised" in report.describe()


def test_initialisation_must_be_visible(launch):
    """Another warp uses the barrier with no synchronisation after its init."""
    body = BAR.replace("bar.sync 0;", "").format(count=64, body="mbarrier.arrive.shared.b64 %st, [%a0];")
    assert ("race", False) in kinds(launch(body, block=64))


@pytest.mark.parametrize("noinc", [".noinc", ""])
def test_arrival_after_copies(launch, noinc):
    """cp.async.mbarrier.arrive: the waiter sees the copies of all threads."""
    x = np.arange(64, dtype=np.uint32)
    out = np.zeros(64, np.uint32)
    body = """mad.wide.u32 %a3, %r0, 4, %p0; cp.async.ca.shared.global [%a2], [%a3], 4;
        cp.async.mbarrier.arrive{noinc}.shared.b64 [%a0]; {more} {wait}
        xor.b32 %r1, %r0, 63; mad.wide.u32 %a4, %r1, 4, %a1; ld.shared.u32 %r2, [%a4];
        mad.wide.u32 %a5, %r0, 4, %p1; st.global.u32 [%a5], %r2;"""
    more = "" if noinc else "mbarrier.arrive.shared.b64 %st, [%a0];"
    for seed in (None, 0, 1):
        good = run(launch, body.format(noinc=noinc, more=more, wait=WAIT.format(0)), args=(x, out), seed=seed)
        assert good.completed and not good.findings, good.describe()
        assert out.tolist() == list(range(63, -1, -1))
    bad = run(launch, body.format(noinc=noinc, more=more, wait=""), args=(x, out))
    assert ("async", False) in kinds(bad)


def test_wrong_operands_are_errors(launch):
    with pytest.raises(Exception, match="needs the number of bytes"):
        run(launch, "mbarrier.arrive.expect_tx.shared.b64 _, [%a0];")
