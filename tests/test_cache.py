"""The cache on disk: what is whole comes back, all else is compiled anew, and nobody disturbs anybody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tilec as tc
from tilec import cache

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_comes_back() -> None:
    parts = {"ptx": b"text", "empty": b"", "binary": bytes(range(256))}
    cache.keep("name", parts)
    assert cache.fetch("name") == parts
    assert cache.fetch("another") is None


@pytest.mark.parametrize("at", [0, 7, 8, 20, 45, -1])
def test_a_damaged_entry_is_not_there_and_goes(folder: Path, at: int) -> None:
    cache.keep("name", {"ptx": b"some text"})
    path = folder / "name.tilec"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert cache.fetch("name") is None
    assert not path.exists()


@pytest.mark.parametrize(
    "data", [b"", b"tilec", b"MZ foreign file of another program", b"tilec\0\0\1" + b"x" * 40]
)
def test_a_foreign_or_short_file_is_not_there(folder: Path, data: bytes) -> None:
    folder.mkdir()
    (folder / "name.tilec").write_bytes(data)
    assert cache.fetch("name") is None


def test_an_older_format_is_not_there(folder: Path) -> None:
    cache.keep("name", {"ptx": b"text"})
    path = folder / "name.tilec"
    path.write_bytes(cache.MAGIC[:-1] + b"\0" + path.read_bytes()[len(cache.MAGIC) :])
    assert cache.fetch("name") is None


def test_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 3500)
    for i in range(3):
        cache.keep(f"e{i}", {"data": b"x" * 1000})
        time.sleep(0.01)
    assert cache.fetch("e0")  # used just now: e1 is the oldest
    time.sleep(0.01)
    cache.keep("e3", {"data": b"x" * 1000})
    assert [bool(cache.fetch(f"e{i}")) for i in range(4)] == [True, False, True, True]
    assert cache.clear() == 3
    assert cache.size() == 0


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE_DIR", "/proc/no/such/folder")
    cache.keep("name", {"ptx": b"text"})
    assert cache.fetch("name") is None


@tc.kernel
def halves(x: tc.Array, y: tc.Array, *, block=64):
    i = tc.blocks(tc.cdiv(x.shape[0], block))
    tile = x.load(i * block, block)
    tc.assert_(tile < 1000, "too large")
    y.store(i * block, tile * 0.5)


def _fresh() -> tc.Kernel:
    """The same kernel without what this process remembers of it."""
    return tc.kernel(halves.definition.function)


def test_a_kernel_from_the_cache_does_what_the_compiled_one_does(folder: Path) -> None:
    x = np.arange(100, dtype=np.float32)
    for _ in range(2):
        y = np.zeros_like(x)
        _fresh()(x, y)
        np.testing.assert_array_equal(y, x / 2)
        assert len(list(folder.glob("*.tilec"))) == 1
        with pytest.raises(tc.TilecError, match="assertion failed in block 1: too large"):
            _fresh()(np.where(x == 80, np.float32(2000), x), y)
    first = halves.compile(x, x, target="sm_80").ptx
    assert _fresh().compile(x, x, target="sm_80").ptx == first


WRITER = """
import os, sys
os.environ["TILEC_CACHE_DIR"] = sys.argv[1]
from tilec import cache
for i in range(int(sys.argv[2])):
    cache.keep(f"e{i % 7}", {"data": bytes([i % 7]) * 50_000})
    found = cache.fetch(f"e{(i + 3) % 7}")
    assert found is None or found == {"data": bytes([(i + 3) % 7]) * 50_000}, "another's bytes"
"""


def _writer(folder: Path, rounds: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(folder), str(rounds)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_sixteen_writers_and_a_killed_one_leave_whole_entries(folder: Path) -> None:
    writers = [_writer(folder, 40) for _ in range(16)]
    victim = _writer(folder, 10**6)
    deadline = time.monotonic() + 60
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 16
    for i in range(7):
        assert cache.fetch(f"e{i}") == {"data": bytes([i]) * 50_000}


def test_a_key_tells_apart_what_is_compiled() -> None:
    assert cache.key("a", "bc") != cache.key("ab", "c")
    assert cache.key("sm_80", "text") != cache.key("sm_90a", "text")
    assert cache.key("a") == cache.key("a")
