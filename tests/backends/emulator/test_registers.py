"""setmaxnreg: registers move through a block's pool, and who asks for too many waits for ever."""

import pytest

from tilec.backends import emulator
from tilec.backends.emulator.registers import at_entry

HEAD = """.version 8.7
.target sm_90a
.address_size 64
.visible .entry k()
{0}
{{ .reg .pred %q; .reg .b32 %r;
"""
BODY = """mov.u32 %r, %tid.x; setp.ge.u32 %q, %r, 256; @%q bra producer;
    setmaxnreg.inc.sync.aligned.u32 {inc}; bra done;
    producer: setmaxnreg.dec.sync.aligned.u32 {dec};
    done: ret; }}"""


def run(inc, dec, limits=".maxntid 384\n.minnctapersm 1", seed=None):
    text = HEAD.format(limits) + BODY.format(inc=inc, dec=dec)
    return emulator.load(text).launch("k", 2, 384, (), seed=seed)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_what_one_group_gives_the_others_take(seed):
    """3 * 168 = 40 + 2 * 232."""
    report = run(232, 40, seed=seed)
    assert report.completed and not report.findings, report.findings


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_more_than_there_are_is_a_deadlock(seed):
    report = run(240, 40, seed=seed)
    assert not report.completed
    assert [f.kind for f in report.findings] == ["deadlock"]
    assert "wait for 240 registers each (the pool has" in report.findings[0].message


@pytest.mark.parametrize(("inc", "dec", "text"), [
    (160, 40, "setmaxnreg.inc asks for 160 registers, the warp has 168, more already"),
    (168, 176, "setmaxnreg.dec asks for 176 registers, the warp has 168, fewer already"),
])  # fmt: skip
def test_the_wrong_direction(inc, dec, text):
    report = run(inc, dec)
    assert report.completed and [(f.kind, f.message) for f in report.findings] == [("async", text)]


def test_without_a_count_at_entry_the_assembler_ignores_it():
    report = run(232, 40, limits=".maxntid 384")
    assert report.completed and {(f.kind, f.warning) for f in report.findings} == {("async", True)}
    assert "setmaxnreg is ignored: neither .maxnreg nor .minnctapersm" in report.findings[0].message


@pytest.mark.parametrize(("directives", "wanted"), [
    ({"maxntid": (384,), "minnctapersm": (1,)}, 168), ({"maxntid": (128, 3, 1), "minnctapersm": (2,)}, 80),
    ({"maxntid": (128,), "minnctapersm": (1,)}, 255), ({"maxntid": (384,), "maxnreg": (128,)}, 128),
    ({"maxntid": (384,)}, 0), ({}, 0),
])  # fmt: skip
def test_registers_at_entry(directives, wanted):
    assert at_entry(directives) == wanted
