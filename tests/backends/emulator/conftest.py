"""Running one PTX instruction over arrays of operands: `apply("add.s32 {d}, {a}, {b};", "s32", a=...,
b=...)`."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.backends.emulator import hardware
from tilec.backends import emulator
from tilec.backends.emulator.ptx_types import numpy_type
from tilec.backends.ptx import driver

REGISTER = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}
HEADER = ".version 8.8\n.target sm_100a\n.address_size 64\n"


def assembled(ptx: str) -> None:
    """With TILEC_PTXAS set, every PTX text of the tests must also please the assembler."""
    if not os.environ.get("TILEC_PTXAS"):
        return
    target = next(line.split()[1] for line in ptx.splitlines() if line.startswith(".target"))
    path = Path("/tmp") / f"tilec_{os.getpid()}.ptx"
    path.write_text(ptx)
    done = subprocess.run(
        ["ptxas", f"-arch={target}", "-o", "/dev/null", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + ptx


def one_instruction(text: str, result: str, kinds: dict[str, str], outputs: tuple[str, ...]) -> str:
    """A kernel in which thread i loads element i of each operand, runs `text`, stores element i of each
    result."""
    names = {**dict.fromkeys(outputs, result), **kinds}
    types = {n: k if k == "pred" else REGISTER[numpy_type(k).itemsize] for n, k in names.items()}
    lines = [f".reg .{t} %{n};" for n, t in types.items()]
    lines += [".reg .b32 %t; .reg .b64 %at, %base, %off; .reg .b16 %small;", "mov.u32 %t, %tid.x;"]
    for n, k in kinds.items():
        size = numpy_type(k).itemsize
        lines += [f"ld.param.u64 %base, [p_{n}];", f"mad.wide.u32 %at, %t, {size}, %base;"]
        lines += [f"ld.global.u8 %small, [%at]; setp.ne.u16 %{n}, %small, 0;" if k == "pred"
                  else f"ld.global.b{size * 8} %{n}, [%at];"]  # fmt: skip
    lines.append(text.format(**{n: f"%{n}" for n in names}))
    for n in outputs:
        size = numpy_type(result).itemsize
        lines += [f"ld.param.u64 %base, [p_{n}];", f"mad.wide.u32 %at, %t, {size}, %base;"]
        lines += [f"selp.u16 %small, 1, 0, %{n}; st.global.u8 [%at], %small;" if result == "pred"
                  else f"st.global.b{size * 8} [%at], %{n};"]  # fmt: skip
    params = ", ".join(f".param .u64 p_{n}" for n in names)
    return HEADER + f".visible .entry k({params})\n{{\n" + "\n".join(lines) + "\nret;\n}\n"


@pytest.fixture
def apply():
    def run(text, result, outputs=("d",), **operands):
        kinds = {n: v[0] for n, v in operands.items()}
        arrays = {n: np.ascontiguousarray(v[1]) for n, v in operands.items()}
        count = len(next(iter(arrays.values()))) if arrays else 32
        found = [np.zeros(count, numpy_type(result)) for _ in outputs]
        ptx = one_instruction(text, result, kinds, outputs)
        assembled(ptx)
        module = emulator.load(ptx)
        for start in range(0, count, 1024):
            stop = min(start + 1024, count)
            args = [f[start:stop] for f in found] + [a[start:stop] for a in arrays.values()]
            module.launch("k", 1, stop - start, args).raise_if_any()
        return found[0] if len(found) == 1 else found

    return run


@pytest.fixture
def launch():
    """Loads a kernel body with named 64-bit parameters and launches it: launch(body, (x, y), block=64)."""

    def run(body, args=(), grid=1, block=32, target="sm_90a", **options):
        params = ", ".join(f".param .u64 p{n}" for n in range(len(args)))
        loads = "".join(f"ld.param.u64 %p{n}, [p{n}];\n" for n in range(len(args)))
        registers = ".reg .b64 %p<8>, %a<16>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .pred %q<8>;\n"
        head = f".version 8.7\n.target {target}\n.address_size 64\n"
        ptx = (
            f"{head}.visible .entry "
            f"k({params})\n{{\n{registers}{loads}mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
        )
        module = emulator.load(ptx)
        assembled(ptx)
        return module.launch("k", grid, block, args, **options)

    return run


# The instruction tests, once more on a GPU: see hardware.py.

_recorded: dict[str, hardware.Record] = {}


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition("test_")[2] in hardware.MODULES:
        metafunc.fixturenames.append("replayed")
        both = [pytest.param("", id="here"), pytest.param("gpu", id="gpu", marks=pytest.mark.gpu)]
        metafunc.parametrize("replayed", both, indirect=True)


@pytest.fixture
def replayed(request, monkeypatch):
    """Launches of a test on the emulator alone, held against records; or on a GPU as well, and recorded."""
    plain, load, test = emulator.Module.launch, emulator.load, name_of(request.node)
    if request.param:
        gpu = driver.device(0)
        record = _recorded.setdefault(gpu.target.name, hardware.Record(gpu.target.name))
        replay = hardware.Replay(test, gpu, record, plain)
        monkeypatch.setattr(emulator, "load", lambda ptx: hardware.with_text(load(ptx), ptx))
        monkeypatch.setattr(
            emulator.Module, "launch", lambda *args, **options: replay.launch(*args, **options)
        )
    elif records := hardware.stored():
        monkeypatch.setattr(emulator.Module, "launch", hardware.held(records, test, plain))


def name_of(node) -> str:
    """The test's name, the same with and without a GPU."""
    name: str = node.name
    for where in ("gpu", "here"):
        name = name.replace(f"[{where}]", "").replace(f"[{where}-", "[")
    return name


def pytest_sessionfinish():
    for record in _recorded.values():
        record.write()
