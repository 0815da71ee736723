"""Tiles that lie wholly outside their arrays: a warning of tilec's kernels, not where some of it is read."""

import numpy as np
import pytest

import tilec as tc
from tests.backends.emulator.conftest import HEADER
from tilec.backends import emulator
from tilec.checking import check

SCRIPT = """
import numpy as np
import tilec as tc

@tc.kernel
def shifted(x: tc.Array, y: tc.Array, *, block=64):
    i = tc.blocks(tc.cdiv(y.shape[0], block))
    t = x.load({start}, block)
    y.store(i * block, t)

@tc.kernel
def product(a: tc.Array, b: tc.Array, c: tc.Array):
    tc.blocks(1)
    acc = tc.zeros((64, 64), tc.f32)
    for s in tc.range(2, stages=2):
        left = a.load((0, {column} + s * 32), (64, 32))
        acc = tc.dot(left, b.load((s * 32, 0), (32, 64)), acc)
    c.store((0, 0), acc)

if __name__ == "__main__":
    x = np.ones(250, np.float32)
    shifted(x, np.zeros_like(x))
    a = np.ones((64, 64), np.float16)
    product(a, a, np.zeros((64, 64), np.float32))
"""


@pytest.mark.parametrize(
    ("start", "column", "texts"),
    [("i * block", 0, []),
     ("i * block + 200", 0, ["3 of 4 blocks read nothing, the first is block (1, 0, 0)"]),
     ("-i * block - 63", 0, ["the first is block (1, 0, 0)"]), ("i * block", 320, ["1 of 1 blocks"]),
     ("i * block", 40, [])],
)  # fmt: skip
@pytest.mark.parametrize("target", ["emulator:sm_80", "emulator:sm_90a"])
def test_kernels_of_a_script(tmp_path, start, column, texts, target):
    """A warning at the line of Python; the script is not failed for it."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(start=start, column=column))
    outcome = check(path, target)
    assert not outcome.failed and outcome.launches == 2, outcome.error
    assert [f.warning for _, f in outcome.findings] == [True] * len(texts)
    for (_, finding), text in zip(outcome.findings, texts, strict=True):
        assert finding.kind == "out-of-bounds" and text in str(finding)
        assert path.read_text().splitlines()[finding.source[1] - 1].count(".load(") >= 1


def test_foreign_masks_are_no_findings():
    """Beside the findings; without a source line not even there."""
    loc = ".loc 1 7 3"
    ptx = f"""{HEADER}.file 1 "a.cu"\n.visible .entry k(.param .u64 x) {{ .reg .b64 %a; .reg .b32 %r<3>;
    .reg .pred %p; ld.param.u64 %a, [x]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p, %r1, 9;
    {loc}\n@%p ld.global.u32 %r2, [%a]; ret; }}"""
    report = emulator.load(ptx).launch("k", 3, 32, (np.zeros(1, np.uint32),))
    assert not report.findings and [f.source for f in report.unread] == [("a.cu", 7)]
    assert (
        emulator.load(ptx).launch("k", 10, 32, (np.zeros(1, np.uint32),)).unread[0].message.count("9 of 10")
    )
    assert not emulator.load(ptx.replace(loc, "")).launch("k", 3, 32, (np.zeros(1, np.uint32),)).unread


def test_a_launch_with_warnings_only_raises_nothing():
    @tc.kernel
    def far(x: tc.Array, y: tc.Array):
        tc.blocks(1)
        y.store(0, x.load(500, 32))

    y = np.ones(32, np.float32)
    with tc.target("emulator:sm_80"):
        far(np.ones(32, np.float32), y)
    assert not y.any()
