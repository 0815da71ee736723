"""The instruction tests on a GPU: what they run on the emulator runs there too, and both are compared.

    PYTHONPATH=. python3 -m pytest -m gpu tests/backends/emulator
A launch that the emulator has nothing against runs on the GPU from the same arrays, which then hold the
GPU's results: the test's own assertions hold those against the ISA. tests/records/instructions-<gpu>.json
keeps of each launch whether the GPU gave the same, and what; where there is such a record, the emulator's
results are held against it in every run without a GPU. Not yet run on hardware.
"""

import datetime
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from tilec.backends import emulator
from tilec.backends.ptx.arguments import Parameters
from tilec.ir.dtype import dtype
from tilec.ir.errors import TilecError
from tilec.ir.signature import Slot

RECORDS = Path(__file__).parents[2] / "records"
MODULES = ("integer", "bitwise", "floating", "convert", "warp", "matrix", "mma_sparse", "async_copy", "edges",
           "memory", "wgmma", "tma", "cluster")  # fmt: skip
SHOWN = 8


class Record:
    """What one kind of GPU gave, by launch: a test's name and the number of the launch in it."""

    def __init__(self, gpu: str, folder: Path = RECORDS) -> None:
        self.path = folder / f"instructions-{gpu}.json"
        self.gpu, self.launches = gpu, {}
        if self.path.exists():
            self.launches = json.loads(self.path.read_text())["launches"]

    def write(self) -> None:
        head = {"gpu": self.gpu, "date": datetime.date.today().isoformat(), "summary": self.summary()}
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({**head, "launches": self.launches}, indent=0, sort_keys=True) + "\n")

    def summary(self) -> dict[str, int]:
        kinds = ("same", "differs", "refused", "left out")
        return {kind: sum(kind in each for each in self.launches.values()) for kind in kinds}

    def holds(self, key: str, arrays: list[np.ndarray]) -> None:
        """The emulator still gives what the GPU gave, where it did when that was recorded."""
        known = self.launches.get(key, {}).get("same")
        assert known in (None, digest(arrays)), f"{key}: {self.gpu} gave something else, see {self.path.name}"


class Replay:
    """Stands in for Module.launch during one test."""

    def __init__(self, test: str, gpu: object, record: Record, plain: object) -> None:
        self.test, self.gpu, self.record, self.plain, self.count = test, gpu, record, plain, 0

    def launch(self, module, kernel, grid, block, args, shared_bytes=0, **options):
        key = f"{self.test} {self.count}"
        self.count += 1
        before = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        report = self.plain(module, kernel, grid, block, args, shared_bytes, **options)
        reason = left_out(report, grid, block, args, options)
        if reason:
            self.record.launches[key] = {"left out": reason}
            return report
        try:
            on_gpu(self.gpu, module.text, kernel, int(grid), int(block), before, shared_bytes)
        except TilecError as error:
            self.record.launches[key] = {"refused": str(error).split("\n")[0]}
            return report
        pairs = [(a, b) for a, b in zip(args, before, strict=True) if isinstance(a, np.ndarray)]
        self.record.launches[key] = compared([a for a, _ in pairs], [b for _, b in pairs])
        for there, found in pairs:
            there[...] = found
        return report


def left_out(report, grid, block, args, options) -> str:
    """Why a launch is not replayed; nothing where it is."""
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    if report.findings or not report.completed:
        return "the emulator has findings"
    if any(isinstance(a, emulator.TensorMap) for a in args):
        return "takes tensor maps"
    if set(options) - {"seed", "checks"}:
        return f"is launched with {', '.join(sorted(options))}"
    if not all(isinstance(x, int | np.integer) for x in (grid, block)):
        return "has more than one dimension"
    if any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i]):
        return "has arrays that share memory"
    return "" if all(a.flags.c_contiguous for a in arrays) else "has arrays with gaps"


def on_gpu(gpu, text, kernel, grid, block, args, shared_bytes) -> None:
    """Runs PTX on a GPU; arrays hold what it leaves in them. The text's target becomes the GPU's."""
    slots, values, places = [], [], []
    text = re.sub(r"\.target\s+\w+", f".target {gpu.target.name}", text, count=1)
    try:
        for n, arg in enumerate(args):
            if not isinstance(arg, np.ndarray):
                slots.append(Slot("scalar", n, dtype=dtype(f"u{8 * arg.nbytes}")))
                values.append(arg.tobytes())
                continue
            places.append((gpu.allocate(arg.nbytes), arg))
            gpu.copy_in(places[-1][0], arg.ctypes.data, arg.nbytes)
            slots.append(Slot("pointer", n))
            values.append(places[-1][0])
        loaded = gpu.load(kernel, (text.encode(),), shared_bytes, Parameters(slots))
        loaded.launch(grid, block, 1, values)
        gpu.synchronise()
        for address, arg in places:
            gpu.copy_out(arg.ctypes.data, address, arg.nbytes)
    finally:
        for address, _ in places:
            gpu.free(address)


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def compared(emulated: list[np.ndarray], found: list[np.ndarray]) -> dict[str, object]:
    """The GPU's results as a digest where the emulator's are the same; else where they differ, in bits."""
    if digest(emulated) == digest(found):
        return {"same": digest(found)}
    examples, count = [], 0
    for n, (a, b) in enumerate(zip(emulated, found, strict=True)):
        bits = np.dtype(f"u{min(a.itemsize, 8)}")
        x, y = a.reshape(-1).view(bits), b.reshape(-1).view(bits)
        where = np.flatnonzero(x != y)
        count += len(where)
        examples += [
            [n, int(i), f"{int(x[i]):#x}", f"{int(y[i]):#x}"] for i in where[: SHOWN - len(examples)]
        ]
    return {"differs": count, "of": sum(a.size for a in found), "array, element, emulator, gpu": examples}


def with_text(module: emulator.Module, text: str) -> emulator.Module:
    """The module, which remembers its text."""
    module.text = text
    return module


def stored(folder: Path = RECORDS) -> list[Record]:
    """The records of every GPU that the tests ran on."""
    names = (p.stem.removeprefix("instructions-") for p in sorted(folder.glob("instructions-*.json")))
    return [Record(name, folder) for name in names]


def held(records: list[Record], test: str, plain):
    """Module.launch, its results held against records."""
    count = 0

    def launch(module, kernel, grid, block, args, *rest, **options):
        nonlocal count
        report = plain(module, kernel, grid, block, args, *rest, **options)
        for record in records:
            record.holds(f"{test} {count}", [a for a in args if isinstance(a, np.ndarray)])
        count += 1
        return report

    return launch
