"""Warp collectives against loops over lanes, under divergence and partial masks."""

import numpy as np
import pytest

X = np.random.default_rng(5).integers(0, 1 << 32, 64, dtype=np.uint32)


def shuffled(mode, b, c, values):
    """The ISA's pseudocode, lane by lane."""
    out, ok = [], []
    for lane in range(32):
        segment, clamp, n = c >> 8 & 31, c & 31, b & 31
        top, base = (lane & segment) | (clamp & ~segment & 31), lane & segment
        j = {"up": lane - n, "down": lane + n, "bfly": lane ^ n, "idx": base | (n & ~segment & 31)}[mode]
        inside = j >= top if mode == "up" else j <= top
        ok.append(inside)
        out.append(values[j] if inside else values[lane])
    return out, ok


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("segment", [0, 16, 24, 28])
def test_shuffle(apply, mode, segment):
    clamp = 0 if mode == "up" else 31
    c = segment << 8 | clamp
    for b in (0, 1, 3, 8, 17, 31):
        d = apply(f"shfl.sync.{mode}.b32 {{d}}, {{a}}, {b}, {c}, -1;", "b32", a=("b32", X))
        text = f"{{{{ .reg .b32 t; shfl.sync.{mode}.b32 t|{{d}}, {{a}}, {b}, {c}, 0xffffffff; }}}}"
        p = apply(text, "pred", a=("b32", X))
        for w in (0, 32):
            out, ok = shuffled(mode, b, c, X[w : w + 32].tolist())
            assert d[w : w + 32].tolist() == out and p[w : w + 32].tolist() == ok


def test_votes(apply):
    for values in (X % 2, X * 0, X * 0 + 1, np.arange(64) % 32 == 5):
        p = values.astype(bool)
        for name, function in (("all", all), ("any", any), ("uni", lambda v: all(v) or not any(v))):
            found = apply(f"vote.sync.{name}.pred {{d}}, {{a}}, -1;", "pred", a=("pred", p))
            assert found.tolist() == [function(p[w : w + 32].tolist()) for w in (0, 32) for _ in range(32)]
        found = apply("vote.sync.ballot.b32 {d}, {a}, -1;", "b32", a=("pred", p))
        expected = [sum(int(v) << i for i, v in enumerate(p[w : w + 32])) for w in (0, 32) for _ in range(32)]
        assert found.tolist() == expected


def test_match(apply):
    a = (X % 5).astype(np.uint32)
    found = apply("match.any.sync.b32 {d}, {a}, -1;", "b32", a=("b32", a))
    expected = [sum(1 << i for i in range(32) if a[w + i] == a[w + k]) for w in (0, 32) for k in range(32)]
    assert found.tolist() == expected
    same = np.where(np.arange(64) < 32, 7, a).astype(np.uint64)
    found = apply("match.all.sync.b64 {d}|{e}, {a}, -1;".replace("|{e}", ""), "b32", a=("b64", same))
    assert found.tolist() == [0xFFFFFFFF] * 32 + [0] * 32


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_reductions(apply, kind):
    a = X.view(np.uint32 if kind == "u32" else np.int32)
    for name, function in (("add", lambda v: sum(v) & 0xFFFFFFFF), ("min", min), ("max", max)):
        found = apply(f"redux.sync.{name}.{kind} {{d}}, {{a}}, -1;", kind, a=(kind, a))
        rows = [function([int(x) for x in a[w : w + 32]]) & 0xFFFFFFFF for w in (0, 32)]
        assert [int(x) & 0xFFFFFFFF for x in found] == [r for r in rows for _ in range(32)]
    for name, function in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        found = apply(f"redux.sync.{name}.b32 {{d}}, {{a}}, -1;", "b32", a=("b32", X))
        assert found.tolist() == [int(function.reduce(X[w : w + 32])) for w in (0, 32) for _ in range(32)]


def test_collectives_under_divergence(launch):
    """Halves of a warp take different ways; each reduces over its own member mask."""
    out = np.zeros(32, np.uint32)
    report = launch(
        """
        setp.lt.u32 %q0, %r0, 12;
        @%q0 bra low;
        redux.sync.add.u32 %r1, %r0, 0xfffff000;
        bra done;
        low: redux.sync.add.u32 %r1, %r0, 0x00000fff;
        done: elect.sync %r2|%q1, -1;
        @%q1 add.u32 %r1, %r1, 1000;
        activemask.b32 %r3; setp.ne.u32 %q2, %r3, -1; @%q2 add.u32 %r1, %r1, 5000;
        mad.wide.u32 %a0, %r0, 4, %p0; st.global.u32 [%a0], %r1;""",
        (out,),
    )
    report.raise_if_any()
    expected = [sum(range(12))] * 12 + [sum(range(12, 32))] * 20
    assert out.tolist() == [expected[0] + 1000, *expected[1:]]


def test_shuffle_from_a_lane_that_is_not_there(launch):
    report = launch(
        "setp.lt.u32 %q0, %r0, 16; @!%q0 bra out; shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xffff; out:"
    )
    assert [f.kind for f in report.findings] == ["divergence"] and "does not take part" in report.findings[
        0
    ].message


def test_collective_whose_partners_never_come(launch):
    report = launch("setp.lt.u32 %q0, %r0, 16; @!%q0 bra wait; shfl.sync.idx.b32 %r1, %r0, 2, 31, -1; "
                    "bra out;\n"
                    "wait: bar.sync 1, 64; out:")  # fmt: skip
    assert {f.kind for f in report.findings} >= {"divergence"}
    assert "elsewhere" in report.findings[0].message
