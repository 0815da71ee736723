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
from tilec.backends import cache
from tilec.backends.emulator.fast import stored

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


def test_another_entry_under_this_name_is_not_there(folder: Path) -> None:
    cache.keep("name", {"ptx": b"text"})
    (folder / "name.tilec").rename(folder / "other.tilec")
    assert cache.fetch("other") is None


def test_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "limit", lambda: 4000)
    for i in range(3):
        cache.keep(f"e{i}", {"data": b"x" * 1000})
        time.sleep(0.01)
    assert cache.fetch("e0")  # used just now: e1 is the oldest
    time.sleep(0.01)
    cache.keep("e3", {"data": b"x" * 1000})
    assert [bool(cache.fetch(f"e{i}")) for i in range(4)] == [True, False, True, True]
    assert cache.size() <= 3600  # a tenth below, so that not every writer has to look for more
    assert cache.clear() == 3
    assert cache.size() == 0


def test_not_every_writer_looks_at_all_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "limit", lambda: 400_000)
    looks, entries = [], cache.entries
    monkeypatch.setattr(cache, "entries", lambda: looks.append(1) or entries())
    for i in range(40):
        cache.keep(f"e{i}", {"data": b"x" * 1000})
    assert len(looks) <= 8
    monkeypatch.setattr(cache, "limit", lambda: 30_000)
    for i in range(60):
        cache.keep(f"f{i}", {"data": b"x" * 1000})
        assert sum(entry.size for entry in entries()) <= 30_000


def test_what_a_killed_writer_left_goes_after_an_hour(folder: Path) -> None:
    cache.keep("name", {"data": b"x"})
    left = folder / ".new-abc"
    left.write_bytes(b"half of an entry")
    assert cache.prune() == 0
    os.utime(left, (time.time() - 4000,) * 2)
    assert cache.prune() == 1 and not left.exists() and cache.fetch("name")


def test_the_limit_is_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.limit() == 512 << 20
    monkeypatch.setenv("TILEC_CACHE_LIMIT", "3")
    assert cache.limit() == 3 << 20
    monkeypatch.setenv("TILEC_CACHE_LIMIT", "2 GiB")
    with pytest.raises(tc.TilecError, match="a whole number of MiB, such as 512, found '2 GiB'"):
        cache.limit()


def test_the_folder_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE_DIR", "~/kernels")
    assert cache.directory() == Path.home() / "kernels"


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tilec.__main__ import main

    for i in range(3):
        cache.keep(f"e{i}", {"data": b"x" * (1 << 20)})
        time.sleep(0.01)
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.startswith(f"3 entries, 3.0 of at most 512 MiB, in {folder}\n")
    assert main(["cache", "prune"]) == 0
    assert capsys.readouterr().out.startswith("0 entries removed")
    assert main(["cache", "prune", "--to", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 entries removed, the least recently used ones, from")
    assert cache.fetch("e2") and not cache.fetch("e1")
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"1 entries removed from {folder}\n"
    assert not cache.entries()


def test_the_emulators_own_code_is_kept_there(folder: Path) -> None:
    text = "define i64 @seven() {\n ret i64 7\n}"
    made = stored(text).object_bytes
    (path,) = folder.glob("*.tilec")
    path.write_bytes(path.read_bytes()[:-1])
    assert stored(text).object_bytes == made, "what is damaged is compiled anew"
    other = stored(text.replace("7", "8")).object_bytes
    cache.keep(path.stem, {"object": other})
    assert stored(text).object_bytes == other != made, "what is whole is read"


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE_DIR", "/proc/no/such/folder")
    cache.keep("name", {"ptx": b"text"})
    assert cache.fetch("name") is None


def test_users_without_a_home_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that no name belongs to, as containers have them."""
    monkeypatch.delenv("TILEC_CACHE_DIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    cache.keep("name", {"ptx": b"text"})
    assert cache.fetch("name") is None and not cache.entries() and cache.clear() == 0


def test_what_cannot_be_removed_is_not_said_to_be(folder: Path) -> None:
    (folder / "name.tilec").mkdir(parents=True)
    assert cache.clear() == 0


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
from tilec.backends import cache
from tilec.backends.emulator.fast import stored
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


SAME = """
import os, sys
os.environ["TILEC_CACHE_DIR"] = sys.argv[1]
import numpy as np
import tilec as tc
from tests.test_cache import halves
x = np.arange(100, dtype=np.float32)
for target in ("cpu", "emulator:sm_80", "cpu"):
    y = np.zeros_like(x)
    with tc.target(target):
        halves(x, y)
    assert (y == x / 2).all(), target
print(halves.compile(x, x, target="sm_80").ptx)
"""


def test_processes_that_compile_one_kernel_at_once(folder: Path) -> None:
    command = [sys.executable, "-c", SAME, str(folder)]
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [subprocess.Popen(command, cwd=ROOT, env=around, stdout=subprocess.PIPE) for _ in range(3)]
    assert len({child.communicate(timeout=120)[0] for child in children}) == 1
    assert [child.returncode for child in children] == [0] * 3
    whole = [path for path in folder.iterdir() if path.suffix == ".tilec"]
    assert len(whole) == 2 and all(cache.fetch(path.stem) for path in whole)  # of the CPU, of sm_80


def test_what_was_damaged_or_belongs_to_another_kernel_is_compiled_again(folder: Path) -> None:
    x = np.arange(100, dtype=np.float32)
    _fresh()(x, y := np.zeros_like(x))
    (path,) = folder.glob("*.tilec")
    good = path.read_bytes()
    for bad in (good[:-3], good[: len(good) // 2], b"", b"MZ" + good[2:], good[:300] + b"\xff" + good[301:]):
        path.write_bytes(bad)
        y[:] = 0
        _fresh()(x, y)
        np.testing.assert_array_equal(y, x / 2)
        assert path.read_bytes()[: len(cache.MAGIC)] == cache.MAGIC and cache.fetch(path.stem)


def test_a_key_tells_apart_what_is_compiled() -> None:
    assert cache.key("a", "bc") != cache.key("ab", "c")
    assert cache.key("sm_80", "text") != cache.key("sm_90a", "text")
    assert cache.key("a") == cache.key("a")
