"""What compiles leave on disk for the next process: named byte strings under a key.

    keep(key, {"ptx": b"..."});  fetch(key) == {"ptx": b"..."}
An entry is one file, written under another name and then moved, so that readers see all of it or nothing. It
begins with a magic number, the version of this format, its own key and a digest of the rest: what is damaged,
foreign, renamed or older is not there. The least recently used entries go when the folder grows past its
limit. A cache that cannot be read or written is no error: everything is compiled anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tilec.backends import container
from tilec.backends.container import Parts
from tilec.ir.errors import TilecError

MAGIC = b"tilec\x00\x00\x01"  # the last byte counts versions of this format
LIMIT = 512  # MiB of the folder, unless TILEC_CACHE_LIMIT says otherwise
SUFFIX, WRITING = ".tilec", ".new-"  # what entries end with, and begin with while they are written
ABANDONED = 3600  # seconds after which an entry that is still being written is not
WRITERS = 16  # processes that may write at once without passing the limit
ROOMS = ("ir", "backends", "tilec")  # folders whose sources decide what is compiled


def directory() -> Path:
    """TILEC_CACHE_DIR, or ~/.cache/tilec; for users without a home a place that nothing can be kept in."""
    chosen, home = os.environ.get("TILEC_CACHE_DIR", ""), os.path.expanduser("~")
    if chosen:
        return Path(os.path.expanduser(chosen))
    return Path(os.devnull if home == "~" else home, ".cache", "tilec")


def key(*parts: str) -> str:
    """A name for what these texts, this compiler and this machine decide."""
    return _digest("".join(f"{len(part)}:{part}" for part in (compiler(), machine(), *parts)))


def _digest(text: str) -> str:
    from hashlib import sha256  # loads OpenSSL

    return sha256(text.encode()).hexdigest()


def fetch(name: str) -> Parts | None:
    """The entry of this name; None where there is none that is whole."""
    path = directory() / (name + SUFFIX)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    found = container.unpacked(MAGIC + name.encode(), data)
    with suppress(OSError):
        if found is None:
            path.unlink()
        else:
            os.utime(path)  # used just now
    return found


def has(name: str) -> bool:
    """Whether there is an entry of this name, whole or not."""
    return os.path.exists(os.path.join(directory(), name + SUFFIX))


def keep(name: str, parts: Parts) -> None:
    """Writes an entry; of two writers of one name either may win, as both write the same."""
    import tempfile

    folder, data = directory(), container.packed(MAGIC + name.encode(), parts)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, written = tempfile.mkstemp(dir=folder, prefix=WRITING)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(written, folder / (name + SUFFIX))
        except BaseException:
            os.unlink(written)
            raise
        _make_room(folder, len(data))


_room: dict[tuple[Path, int], int] = {}  # by folder and limit: bytes that this process may still write


def _make_room(folder: Path, written: int) -> None:
    """Prunes, but not before this process has written its part of what fits: to look at thousands of entries
    takes longer than to write one."""
    room = _room.get((folder, limit()), 0) - written
    if room < 0:
        prune()
        room = (limit() - size()) // WRITERS
    _room[folder, limit()] = room


def limit() -> int:
    """Bytes that the folder may take: TILEC_CACHE_LIMIT in MiB, or LIMIT. TilecError if it is no number."""
    chosen = os.environ.get("TILEC_CACHE_LIMIT") or str(LIMIT)
    if not chosen.isdecimal():
        raise TilecError(f"TILEC_CACHE_LIMIT is a whole number of MiB, such as {LIMIT}, found {chosen!r}")
    return int(chosen) << 20


class Entry(NamedTuple):
    """A file of the cache; sorted, the least recently used come first."""

    used: float
    size: int
    path: str

    @property
    def abandoned(self) -> bool:
        """Whether its writer must be dead."""
        writing = os.path.basename(self.path).startswith(WRITING)
        return writing and time.time() - self.used > ABANDONED


def entries() -> list[Entry]:
    """The files of the cache, the least recently used first."""
    found = []
    with suppress(OSError):
        for file in os.scandir(directory()):
            if file.name.endswith(SUFFIX) or file.name.startswith(WRITING):
                with suppress(OSError):  # another process has removed it
                    stat = file.stat()
                    found.append(Entry(stat.st_mtime, stat.st_size, file.path))
    return sorted(found)


def size() -> int:
    """Bytes of all entries."""
    return sum(entry.size for entry in entries())


def clear() -> int:
    """Removes every entry; gives how many there were."""
    return prune(-1)


def prune(most: int | None = None) -> int:
    """Removes the least recently used entries until the rest takes at most so many bytes, and gives how many
    went; by itself a tenth below the limit, once that is passed. Of killed writers nothing is left after an
    hour."""
    kept, gone = entries(), 0
    total = sum(entry.size for entry in kept)
    if most is None:
        most = limit() if total <= limit() else limit() * 9 // 10
    for entry in kept:
        if total > most or entry.abandoned:
            total -= entry.size
            with suppress(OSError):  # another process has removed it, or it is not ours to remove
                os.unlink(entry.path)
                gone += 1
    return gone


@cache
def compiler() -> str:
    """The sources that compile, by path, size and time, and the version of LLVM's binding."""
    base = os.path.dirname(os.path.dirname(__file__))
    rooms = [os.path.join(base, room) for room in ROOMS]
    if not os.path.isdir(rooms[-1]):
        rooms = [base]  # where it is installed: tilec itself, with all rooms in it
    found = sorted(line for room in rooms for line in _sources(room))
    return _digest("".join(found)) + _llvmlite()


def _sources(folder: str) -> Iterator[str]:
    """A line for each file of a folder and of those in it."""
    for entry in os.scandir(folder):
        if entry.name.endswith(".py"):
            stat = entry.stat()
            yield f"{entry.path} {stat.st_size} {stat.st_mtime_ns}\n"
        elif entry.is_dir():
            yield from _sources(entry.path)


@cache
def machine() -> str:
    """The processor: native code is for one."""
    import platform

    with suppress(OSError), open("/proc/cpuinfo") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return f"{platform.machine()} {flags}"
    return " ".join(platform.uname())


def _llvmlite() -> str:
    """The version of LLVM's binding: by its file, as importlib.metadata takes longer than all else here."""
    from importlib.util import find_spec

    spec = find_spec("llvmlite")
    if spec is None or not spec.origin:
        return "none"
    with suppress(OSError):
        return Path(spec.origin).with_name("_version.py").read_text()
    return str(os.stat(spec.origin))
