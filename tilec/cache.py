"""What compiles leave on disk for the next process: named byte strings under a key.

    keep(key, {"ptx": b"..."});  fetch(key) == {"ptx": b"..."}
An entry is one file, written under another name and then moved, so that readers see all of it or nothing. It
begins with a magic number, the version of this format, its own key and a digest of the rest: what is damaged,
foreign, renamed or older is not there. The least recently used entries go when the folder grows past its limit. A cache that
cannot be read or written is no error: everything is compiled anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from tilec import container
from tilec.container import Parts

MAGIC = b"tilec\x00\x00\x01"  # the last byte counts versions of this format
LIMIT = 512  # MiB of the folder, unless TILEC_CACHE_LIMIT says otherwise
SUFFIX = ".tilec"
ABANDONED = 3600  # seconds after which an entry that is still being written is not
ROOMS = ("ir", "backends")  # folders whose sources decide what is compiled


def directory() -> Path:
    """TILEC_CACHE_DIR, or ~/.cache/tilec."""
    chosen = os.environ.get("TILEC_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "tilec"


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


def keep(name: str, parts: Parts) -> None:
    """Writes an entry; of two writers of one name either may win, as both write the same."""
    import tempfile

    folder = directory()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, written = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(container.packed(MAGIC + name.encode(), parts))
            os.replace(written, folder / (name + SUFFIX))
        except BaseException:
            os.unlink(written)
            raise
        prune()


def limit() -> int:
    """Bytes that the folder may take: TILEC_CACHE_LIMIT in MiB, or LIMIT."""
    chosen = os.environ.get("TILEC_CACHE_LIMIT", "")
    return (int(chosen) if chosen.isdecimal() else LIMIT) << 20


def entries() -> list[Path]:
    """The files of the cache, the least recently used first."""
    try:
        found = [(entry.stat().st_mtime_ns, Path(entry.path)) for entry in os.scandir(directory())
                 if entry.name.endswith(SUFFIX) or entry.name.startswith(".new-")]  # fmt: skip
    except OSError:
        return []
    return [path for _, path in sorted(found)]


def clear() -> int:
    """Removes every entry; gives how many there were."""
    gone = entries()
    for path in gone:
        with suppress(OSError):
            path.unlink()
    return len(gone)


def size() -> int:
    """Bytes of all entries."""
    return sum(_size(path) for path in entries())


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def prune(most: int | None = None) -> int:
    """Removes the least recently used entries until the rest takes at most so many bytes, the limit unless
    given; gives how many went. What a writer that was killed left behind goes after an hour."""
    paths = entries()
    sizes = [_size(path) for path in paths]
    excess, gone = sum(sizes) - (limit() if most is None else most), 0
    for path, taken in zip(paths, sizes, strict=True):
        if excess > 0 or _abandoned(path):
            with suppress(OSError):
                path.unlink()
            excess, gone = excess - taken, gone + 1
    return gone


def _abandoned(path: Path) -> bool:
    if not path.name.startswith(".new-"):
        return False
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > ABANDONED
    return False


@cache
def compiler() -> str:
    """The sources that compile, by path, size and time, and the version of LLVM's binding."""
    root = os.path.dirname(__file__)
    base = root if os.path.isdir(os.path.join(root, "ir")) else os.path.dirname(root)
    rooms = {root, *(os.path.join(base, room) for room in ROOMS)}
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
