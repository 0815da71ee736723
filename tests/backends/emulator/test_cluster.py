"""Clusters: the cluster's barrier, shared memory of other blocks, remote mbarriers, multicast."""

import numpy as np
import pytest

from tests.backends.emulator.test_tma import LOAD, WAIT, kernel
from tilec.backends.emulator import TensorMap, race

PEER = """
    .shared .align 16 .b8 s[256]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 4, %a0;
    mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 32, %r0;
    st.shared.u32 [%a1], %r3; {sync}
    xor.b32 %r4, %r1, 1; mapa.shared::cluster.u64 %a2, %a1, %r4; ld.shared::cluster.u32 %r5, [%a2];
    mad.wide.u32 %a3, %r3, 4, %p0; st.global.u32 [%a3], %r5; {end}"""
SYNC = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
PAIR = {"grid": 2, "cluster": (2, 1, 1)}


def kinds(report):
    return {f.kind for f in report.errors}


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("grid", [2, 6])
def test_peer_memory(launch, seed, grid):
    out = np.zeros(32 * grid, np.uint32)
    body = PEER.format(sync=SYNC, end=SYNC)
    report = launch(body, (out,), grid=grid, cluster=(2, 1, 1), seed=seed)
    assert not report.findings, report.describe()
    assert out.tolist() == [i ^ 32 for i in range(32 * grid)]


def test_cluster_of_rows(launch):
    """A cluster of two rows: ranks go down the second dimension."""
    out = np.zeros(32 * 6, np.uint32)
    body = PEER.format(sync=SYNC, end=SYNC).replace(
        "mad.lo.u32 %r3, %r2, 32, %r0;",
        "mov.u32 %r6, %ctaid.y; mad.lo.u32 %r2, %r6, 3, %r2; mad.lo.u32 %r3, %r2, 32, %r0;",
    )
    launch(body, (out,), grid=(3, 2), cluster=(1, 2, 1)).raise_if_any()
    block, lane = np.divmod(np.arange(192), 32)
    assert out.tolist() == ((block + 3) % 6 * 32 + lane).tolist()


def test_rank_and_extent(launch):
    out = np.zeros(8, np.uint32)
    launch("mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; mad.lo.u32 %r1, %r2, 10, %r1;"
           "mov.u32 %r3, %ctaid.x; mad.wide.u32 %a0, %r3, 4, %p0; setp.eq.u32 %q0, %r0, 0;"
           "@%q0 st.global.u32 [%a0], %r1;", (out,), grid=8, cluster=(4, 1, 1)).raise_if_any()  # fmt: skip
    assert out.tolist() == [40, 41, 42, 43] * 2


def test_one_block_that_never_arrives(launch):
    body = "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %q0, %r1, 0; @%q0 bra wait; bar.sync 1, 64;"
    body += " wait:" + SYNC
    report = launch(body, grid=2, cluster=(2, 1, 1))
    assert not report.completed
    assert "wait for the cluster's barrier" in report.findings[-1].message


@pytest.mark.parametrize("cluster", [(1, 1, 1), (2, 1, 1)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_threads_that_exit_are_not_waited_for(launch, cluster, seed):
    """The second warp leaves late, without an arrival."""
    body = """setp.lt.u32 %q0, %r0, 32; @%q0 bra meet; mov.u32 %r2, 0;
        spin: add.u32 %r2, %r2, 1; setp.lt.u32 %q1, %r2, 50; @%q1 bra spin; exit;
        meet: barrier.cluster.arrive.relaxed; barrier.cluster.wait; barrier.cluster.arrive;
        barrier.cluster.wait;"""
    for text in (
        body,
        body.replace("bra meet; mov", "bra.uni meet; mov").replace("lt.u32 %q0", "ge.u32 %q0"),
    ):
        report = launch(text, grid=2, block=64, cluster=cluster, seed=seed)
        assert report.completed and not report.findings, report.describe()


REMOTE = """
    .shared .align 8 .b8 bar[8]; .shared .align 16 .b8 s[256]; mov.u64 %a0, bar; mov.u64 %a4, s;
    setp.eq.u32 %q0, %r0, 0; @%q0 mbarrier.init.shared.b64 [%a0], 1; {sync}
    mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1; mapa.shared::cluster.u64 %a1, %a0, %r2;
    {signal}
    wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %q1, [%a0], 0; @!%q1 bra wait; {read}
    {sync}"""


def test_remote_arrival(launch):
    signal = "@%q0 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%a1];"
    body = REMOTE.format(sync=SYNC, signal=signal, read="")
    report = launch(body, grid=2, cluster=(2, 1, 1))
    assert report.completed and not report.findings, report.describe()
    report = launch(body.replace(signal, ""), grid=2, cluster=(2, 1, 1))
    assert [f.kind for f in report.findings] == ["deadlock"]


def test_asynchronous_remote_store(launch):
    out = np.zeros(2, np.uint32)
    signal = """@%q0 mbarrier.arrive.expect_tx.shared.b64 _, [%a0], 4; mapa.shared::cluster.u64 %a2, %a4, %r2;
        add.u32 %r3, %r1, 7;
        @%q0 st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%a2], %r3, [%a1];"""
    read = "ld.shared.u32 %r4, [%a4]; mad.wide.u32 %a3, %r1, 4, %p0; @%q0 st.global.u32 [%a3], %r4;"
    body = REMOTE.format(sync=SYNC, signal=signal, read=read)
    report = launch(body, (out,), grid=2, cluster=(2, 1, 1))
    assert report.completed and not report.findings, report.describe()
    assert out.tolist() == [8, 7]
    early = REMOTE.format(sync=SYNC, signal=signal + read, read="")
    report = launch(early, (out,), grid=2, cluster=(2, 1, 1))
    assert "reads s of the cluster's block" in report.describe() and kinds(report) == {"async"}
    assert (out == 0xFFFFFFFF).all(), "it lands when it is waited for"


def test_multicast():
    """One block's load reaches both blocks, each counted by its own mbarrier."""
    array = np.arange(16 * 64, dtype=np.uint16).reshape(16, 64)
    out = np.zeros(2 * 256, np.uint8)
    body = (
        LOAD.replace(
            "@%q0 cp.async",
            SYNC + "mov.u32 %r2, %cluster_ctarank; setp.eq.and.u32 %q2, %r2, 0, %q0; mov.u16 %h, 3; "
            "@%q2 cp.async",
        )
        .replace("bytes [%s]", "bytes.multicast::cluster [%s]")
        .replace("[%bar];\n    ", "[%bar], %h;\n    ")
        + WAIT
        + "mad.wide.u32 %o, %r2, 256, %o; mad.wide.u32 %a1, %r0, 8, %s; mad.wide.u32 %a2, %r0, 8, %o;"
        "ld.shared.u64 %a3, [%a1]; st.global.u64 [%a2], %a3;" + SYNC
    )
    module = kernel(2, 256, body)
    args = (TensorMap(array, (8, 16)), out, np.int32(16), np.int32(4))
    report = module.launch("k", 2, 32, args, cluster=(2, 1, 1))
    assert not report.findings, report.describe()
    found = out.view(np.uint16).reshape(2, 8, 16)
    for block in range(2):
        np.testing.assert_array_equal(found[block], array[4:12, 16:32])


# Races between blocks of a cluster.


@pytest.fixture(params=["numpy", "compiled"])
def peer(request, launch, monkeypatch):
    """Runs a body in a cluster of two, under either of the two race checks."""
    monkeypatch.setattr(race, "ENOUGH", 0 if request.param == "compiled" else 1 << 60)
    return lambda body, *args, **options: launch(body, *args, **{**PAIR, **options})


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_peer_memory_without_synchronisation(peer, seed):
    out = np.zeros(64, np.uint32)
    report = peer(PEER.format(sync="", end=SYNC), (out,), seed=seed)
    assert kinds(report) == {"race"}
    assert "reads s of the cluster's block" in report.describe() and "after the write" in report.describe()
    report = peer(PEER.format(sync=SYNC, end=""), (out,), seed=seed)
    assert kinds(report) == {"race"}
    assert "the block ends with no synchronisation after the read" in report.describe()


def test_generic_addresses_of_peers(peer):
    generic = (PEER.replace("mapa.shared::cluster", "mapa").replace("ld.shared::cluster", "ld"),)
    out = np.zeros(64, np.uint32)
    assert not peer(generic[0].format(sync=SYNC, end=SYNC), (out,)).findings
    assert out.tolist() == [i ^ 32 for i in range(64)]
    assert kinds(peer(generic[0].format(sync="", end=SYNC), (out,))) == {"race"}


RELAXED = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;"


def test_a_relaxed_arrival_orders_nothing_without_a_fence(peer):
    out = np.zeros(64, np.uint32)
    assert kinds(peer(PEER.format(sync=RELAXED, end=SYNC), (out,))) == {"race"}
    assert not peer(PEER.format(sync="fence.acq_rel.cluster;" + RELAXED, end=SYNC), (out,)).findings


def test_what_comes_after_the_arrival_is_not_ordered(peer):
    """Between arrive and wait, the other blocks may already be past the barrier."""
    arrive, wait = SYNC.split("; ")
    late = PEER.replace("st.shared.u32 [%a1], %r3; {sync}", arrive + "; st.shared.u32 [%a1], %r3; " + wait)
    assert kinds(peer(late.format(end=SYNC), (np.zeros(64, np.uint32),))) == {"race"}


def test_the_end_of_a_block_that_is_written_to(peer):
    body = PEER.replace("ld.shared::cluster.u32 %r5, [%a2]", "st.shared::cluster.u32 [%a2], %r3").format(
        sync=SYNC, end=""
    )
    assert "after the write of s of the cluster's block" in peer(body, (np.zeros(64, np.uint32),)).describe()
    report = peer(
        "mov.u32 %r1, %cluster_ctarank; .shared .align 16 .b8 s[128]; setp.eq.u32 %q0, %r1, 0; @%q0 ret;"
        "spin: add.u32 %r2, %r2, 1; setp.lt.u32 %q1, %r2, 9; @%q1 bra spin; mov.u32 %r3, s; mov.u32 %r4, 0;"
        "mapa.shared::cluster.u32 %r5, %r3, %r4; st.shared::cluster.u32 [%r5], 1;"
    )
    assert "uses the shared memory of the cluster's block 0, which has ended" in report.describe()


@pytest.mark.parametrize(
    ("change", "text"),
    [(("xor.b32 %r4, %r1, 1", "mov.u32 %r4, 2"), "cluster's block 2; 2 blocks of 256 bytes"),
     (("[%a2];", "[%a2+200];"), "offset 256 of the cluster's block")],
)  # fmt: skip
def test_bounds_of_peers(peer, change, text):
    report = peer(PEER.replace(*change).format(sync=SYNC, end=SYNC), (np.zeros(64, np.uint32),))
    assert kinds(report) >= {"out-of-bounds"} and text in report.describe()


SEND = "mapa.shared::cluster.u64 %a2, %a4, %r2; @%q0 st.shared::cluster.u32 [%a2], %r1;"
ARRIVE = "@%q0 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%a1];"
READ = "ld.shared.u32 %r4, [%a4];"


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_remote_arrivals_order_what_came_before(peer, seed):
    def run(**parts):
        parts = {"sync": SYNC, "signal": SEND + ARRIVE, "read": READ, **parts}
        return peer(REMOTE.format(**parts), seed=seed)

    assert not run().findings
    assert kinds(run(signal=ARRIVE + SEND)) == {"race"}
    assert "uninitialised" in kinds(run(signal=READ + SEND + ARRIVE))
    assert "race" in kinds(run(signal=SEND + ARRIVE + READ))


def test_remote_arrival_needs_an_initialised_barrier(peer):
    """Without the cluster's barrier after mbarrier.init."""
    body = REMOTE.replace("1; {sync}", "1; bar.sync 0;").format(sync=SYNC, signal=ARRIVE, read="")
    report = peer(body)
    assert kinds(report) == {"race"} and "after the write at line" in report.describe()


COUNT = """
    .shared .align 16 .b8 s[16]; mov.u64 %a0, s; setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.u32 [%a0], 0; {sync}
    mov.u32 %r1, 0; mapa.shared::cluster.u64 %a1, %a0, %r1; atom.shared::cluster.add.u32 %r2, [%a1], 1;
    {after}
    mov.u32 %r3, %cluster_ctarank; setp.eq.and.u32 %q0, %r3, 0, %q0; ld.shared.u32 %r4, [%a0];
    @%q0 st.global.u32 [%p0], %r4;"""


def test_atomics_on_peers(peer):
    out = np.zeros(1, np.uint32)
    assert not peer(COUNT.format(sync=SYNC, after=SYNC), (out,)).findings and out[0] == 64
    assert kinds(peer(COUNT.format(sync=SYNC, after="bar.sync 0;"), (out,))) == {"race"}
    assert kinds(peer(COUNT.format(sync="bar.sync 0;", after=SYNC), (out,))) == {"race"}


BULK = """
    .shared .align 16 .b8 from[128]; .shared .align 16 .b8 to[128]; .shared .align 8 .b8 bar[8];
    mov.u64 %a0, from; mov.u64 %a1, to; mov.u64 %a2, bar; setp.eq.u32 %q0, %r0, 0;
    mov.u32 %r1, %cluster_ctarank; @%q0 mbarrier.init.shared.b64 [%a2], 1; mad.wide.u32 %a3, %r0, 4, %a0;
    mad.lo.u32 %r2, %r1, 32, %r0;
    st.shared.u32 [%a3], %r2; fence.proxy.async; {sync} xor.b32 %r3, %r1, 1;
    @%q0 mbarrier.arrive.expect_tx.shared.b64 _, [%a2], 128;
    mapa.shared::cluster.u64 %a4, %a1, %r3; mapa.shared::cluster.u64 %a5, %a2, %r3;
    @%q0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%a4], [%a0], 128, [%a5];
    {touch}
    wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %q1, [%a2], 0; @!%q1 bra wait;
    mad.wide.u32 %a6, %r0, 4, %a1; ld.shared.u32 %r4, [%a6];
    mad.wide.u32 %a7, %r2, 4, %p0; st.global.u32 [%a7], %r4; {sync} {late}"""


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_bulk_copies_between_blocks(peer, seed):
    out = np.zeros(64, np.uint32)

    def run(**parts):
        return peer(BULK.format(**{"sync": SYNC, "touch": "", "late": "", **parts}), (out,), seed=seed)

    assert not (report := run(late="st.shared.u32 [%a3], 0;")).findings, report.describe()
    assert out.tolist() == [i ^ 32 for i in range(64)]
    assert kinds(run(touch="st.shared.u32 [%a3], 0;")) & {"async", "race"}


def test_bulk_copies_between_blocks_in_rule(peer):
    body = BULK.format(sync=SYNC, touch="", late="").replace("[%a0], 128,", "[%a0], %r9,")
    report = peer("mov.u32 %r9, 24;" + body, (np.zeros(64, np.uint32),))
    assert "a bulk copy of 24 bytes: it must be a multiple of 16" in report.describe()


def test_multicast_of_plain_bytes(peer):
    body = BULK.replace("shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%a4], [%a0], 128, [%a5]",
                        "shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                        " [%a1], [%p1], 128, [%a2], 3")  # fmt: skip
    body = body.replace("@%q0 cp", "setp.eq.and.u32 %q2, %r1, 1, %q0; @%q2 cp")
    out, x = np.zeros(64, np.uint32), np.arange(32, dtype=np.uint32) + 7
    report = peer(body.format(sync=SYNC, touch="", late=""), (out, x))
    assert not report.findings, report.describe()
    assert out.tolist() == [*x, *x]
