"""Blocks that take turns through a flag: no global race where release and acquire order them, else one."""

import numpy as np
import pytest

TURN = """
    mov.u32 %r1, %ctaid.x; setp.ne.u32 %q0, %r0, 0; @%q0 bra ready;
    spin: {acquire} setp.ne.u32 %q1, %r2, %r1; @%q1 bra spin; {after}
    ready: bar.sync 0;
    mad.wide.u32 %a0, %r0, 4, %p0; ld.global.u32 %r3, [%a0]; add.u32 %r3, %r3, %r1; st.global.u32 [%a0], %r3;
    bar.sync 0; @%q0 bra out; add.u32 %r4, %r1, 1; {before} {release}
    out:"""
GOOD = [
    {"acquire": "ld.acquire.gpu.global.u32 %r2, [%p1];", "after": "", "before": "",
     "release": "st.release.gpu.global.u32 [%p1], %r4;"},
    {"acquire": "ld.relaxed.gpu.global.u32 %r2, [%p1];", "after": "fence.acq_rel.gpu;",
     "before": "fence.acq_rel.gpu;",
     "release": "st.relaxed.gpu.global.u32 [%p1], %r4;"},
    {"acquire": "ld.volatile.global.u32 %r2, [%p1];", "after": "membar.gl;", "before": "membar.gl;",
     "release": "atom.global.add.u32 %r5, [%p1], 1;"},
    {"acquire": "atom.global.acquire.gpu.add.u32 %r2, [%p1], 0;", "after": "", "before": "",
     "release": "red.global.release.gpu.add.u32 [%p1], 1;"},
]  # fmt: skip


def run(launch, parts, **options):
    x, flag = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
    return x, launch(TURN.format(**parts), (x, flag), grid=5, block=64, **options)


@pytest.mark.parametrize("parts", GOOD)
@pytest.mark.parametrize("seed", [None, 0])
def test_turns(launch, parts, seed):
    x, report = run(launch, parts, seed=seed)
    assert not report.findings and report.completed, report.describe()
    assert (x == sum(range(5))).all()


@pytest.mark.parametrize(
    ("which", "change"),
    [(0, {"acquire": "ld.relaxed.gpu.global.u32 %r2, [%p1];"}),
     (0, {"release": "st.relaxed.gpu.global.u32 [%p1], %r4;"}),
     (1, {"after": ""}), (1, {"before": ""}), (2, {"before": ""}), (2, {"after": ""}),
     (3, {"release": "red.global.relaxed.gpu.add.u32 [%p1], 1;"})],
)  # fmt: skip
def test_half_a_handshake_orders_nothing(launch, which, change):
    _, report = run(launch, {**GOOD[which], **change})
    assert {f.kind for f in report.findings} == {"global-race"}
