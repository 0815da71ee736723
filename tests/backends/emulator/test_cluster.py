"""Clusters: the cluster's barrier, shared memory of other blocks, remote mbarriers, multicast."""

import numpy as np
import pytest

from tests.backends.emulator.test_tma import LOAD, WAIT, kernel
from tilec.backends.emulator import TensorMap

PEER = """
    .shared .align 16 .b8 s[256]; mov.u64 %a0, s; mad.wide.u32 %a1, %r0, 4, %a0;
    mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 32, %r0;
    st.shared.u32 [%a1], %r3; {sync}
    xor.b32 %r4, %r1, 1; mapa.shared::cluster.u64 %a2, %a1, %r4; ld.shared::cluster.u32 %r5, [%a2];
    mad.wide.u32 %a3, %r3, 4, %p0; st.global.u32 [%a3], %r5; {end}"""
SYNC = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"


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
    report = launch(REMOTE.format(sync=SYNC, signal=signal, read=read), (out,), grid=2, cluster=(2, 1, 1))
    assert report.completed and not report.errors, report.describe()
    assert out.tolist() == [8, 7]


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
