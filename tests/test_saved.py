"""Kernels as files: what is saved runs where nothing can be compiled, what is damaged is refused."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tilec as tc
from tests.backends.ptx.stub import installed
from tilec.backends.ptx import assemble
from tilec.ir.inst.sync import Require
from tilec.ir.text import show
from tilec.saved import MAGIC, launch_of

ROOT = Path(__file__).parents[1]


@tc.kernel
def scaled(x: tc.Array, y: tc.Array, alpha: tc.f32 = 2.0, *, block=64):
    """y = x * alpha, by rows"""
    (m, n), wide = x.shape, tc.cdiv(y.shape[1], block)
    tc.require(y.shape == (m, n))
    i, j = tc.blocks(m, wide)
    y.store((i, j * block), x.load((i, j * block), (1, block)) * alpha)


ROWS = (tc.Spec("f32", ("m", tc.dim("n", 4))), tc.Spec("f32", ("m", tc.dim("n", 4))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.tilec"
    scaled._compiled.clear()  # with or without an assembler, as now
    scaled.compile(*ROWS, target="sm_80").save(path)
    return path


def test_a_saved_kernel_runs(path: Path) -> None:
    x = np.arange(3 * 100, dtype=np.float32).reshape(3, 100)
    done = tc.load(path)
    assert repr(done) == "Compiled(scaled, f32[m, n:4], f32[m, n:4], f32, target='sm_80')"
    assert done.ptx == scaled.compile(*ROWS, target="sm_80").ptx and done.kernels == ("scaled",)
    with tc.target("emulator:sm_80"):
        done(x, y := np.zeros_like(x), 3)
        np.testing.assert_array_equal(y, 3 * x)
        done(x, y)  # the default of alpha
        np.testing.assert_array_equal(y, 2 * x)


def test_it_runs_on_a_gpu(path: Path) -> None:
    x = np.arange(300, dtype=np.float32).reshape(3, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "find", lambda tool: None)
        scaled._compiled.clear()
        scaled.compile(*ROWS, target="sm_80").save(path)  # PTX alone
        with installed() as stub:
            done = tc.load(path)
            there, y = tc.to_device(x), tc.to_device(np.zeros_like(x))
            done(there, y, 3)
            np.testing.assert_array_equal(y.numpy(), 3 * x)
            with tc.target("cuda:0"):
                done(x, out := np.zeros_like(x))
            np.testing.assert_array_equal(out, 2 * x)
            assert [launch[:4] for launch in stub.launches] == [("scaled", 6, 128, 0)] * 2
            del there, y
            gc.collect()


def test_the_cubin_goes_along(path: Path) -> None:
    if assemble.find("ptxas") is None:
        pytest.skip("needs ptxas")
    done = tc.load(path)
    assert done.cubin is not None and done.cubin.startswith(b"\x7fELF")
    assert done.resources == scaled.compile(*ROWS, target="sm_80").resources
    x, y = (np.ones((2, 8), np.float32) for _ in range(2))
    with installed() as stub, tc.target("cuda:0"):
        done(x, y)
        assert [c[1][:4] for c in stub.calls if c[0] == "cuModuleLoadDataEx"] == [b"\x7fELF"]


def test_calls_are_checked_as_those_of_the_compiled_kernel(path: Path) -> None:
    done, x = tc.load(path), np.ones((3, 8), np.float32)
    for call, message in (
        (lambda: done(x), "scaled needs the argument y: scaled(x, y, alpha)"),
        (lambda: done(x, x), "scaled writes y, whose bytes overlap those of x"),
        (lambda: done(x, np.ones((3, 7), np.float32)), "axis 1 of y is 7, but n was 8 before"),
        (lambda: done(x, np.ones((3, 8))), "y was compiled for f32[m, n:4], found f64[3, 8]"),
        (
            lambda: done(np.ones((3, 6), np.float32), x),
            "axis 1 of x was compiled as a multiple of 4, found 6",
        ),
    ):
        with pytest.raises(tc.TilecError, match=re.escape(message)), tc.target("emulator:sm_80"):
            call()
    with pytest.raises(tc.TilecError, match=r"was compiled for sm_80, and its arguments lie on the host"):
        done(x, x.copy())
    for gone in ("ir", "llvm"):
        with pytest.raises(tc.TilecError, match="was loaded from a file, which keeps its PTX alone"):
            getattr(done, gone)


def test_what_the_host_needs_is_little() -> None:
    func = scaled.compile(*ROWS, target="sm_80").traced
    kept = launch_of(func)
    assert len(kept.body.body) < len(func.body.body) and kept.grid
    assert sum(isinstance(inst, Require) for inst in kept.body.body) == 1
    assert "load" not in show(kept)


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("llvmlite", "sympy", "ml_dtypes", "cuda", "torch", "hypothesis"):
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Blocker())
import numpy as np, tilec as tc
done = tc.load(sys.argv[1])
x = np.arange(200, dtype=np.float32).reshape(2, 100)
with tc.target("emulator:sm_80"):
    done(x, y := np.zeros_like(x), 5)
assert (y == 5 * x).all()
try:
    with tc.target("cuda:0"):
        done(x, y)
except tc.TilecError as error:
    print(error)
"""


def test_a_machine_with_numpy_alone(path: Path, tmp_path: Path) -> None:
    """No compiler: the modules that compile cannot be imported. (The emulator stands in for the driver.)"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TILEC_CACHE_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-c", BLOCKED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "running on a GPU needs cuda-python" in done.stdout


def test_files_that_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    at = len(MAGIC)
    for data, message in (
        (b"", "is no kernel that tilec saved"),
        (b"\x7fELF and so on", "is no kernel that tilec saved: compiled.save(path) writes one"),
        (whole[:at] + b"\x02" + whole[at + 1 :], "was saved by a newer tilec: update this one"),
        (whole[:at] + b"\x00" + whole[at + 1 :], "is damaged"),
        (whole[:-1], "is damaged: its contents and its digest differ"),
        (whole[: at + 20], "is damaged"),
        (whole + b"\0", "is damaged"),
    ):
        path.write_bytes(data)
        with pytest.raises(tc.TilecError, match=re.escape(message)):
            tc.load(path)
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(tc.TilecError):
            tc.load(path)
    with pytest.raises(tc.TilecError, match=r"nothing\.tilec cannot be read: No such file"):
        tc.load(path.with_name("nothing.tilec"))


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_only_kernels_of_gpus_are_saved(path: Path, target: str) -> None:
    with pytest.raises(tc.TilecError, match=f'{target} has no PTX to save: compile with target="sm_80"'):
        scaled.compile(*ROWS, target=target).save(path)


# PTX edited by hand.


def test_edited_ptx_runs(path: Path) -> None:
    done = scaled.compile(*ROWS, target="sm_80")
    edited = done.with_ptx(re.sub(r"mul(\.rn)?\.f32", r"add\1.f32", done.ptx))
    assert edited.ptx != done.ptx and edited.target == "sm_80"
    x = np.arange(100, dtype=np.float32).reshape(1, 100)
    with tc.target("emulator:sm_80"):
        edited(x, y := np.zeros_like(x), 3)
        np.testing.assert_array_equal(y, x + 3)
        done(x, y, 3)
        np.testing.assert_array_equal(y, x * 3)
        edited.save(path)
        tc.load(path)(x, y, 5)
        np.testing.assert_array_equal(y, x + 5)
        again = tc.load(path).with_ptx(done.ptx)
        again(x, y, 5)
        np.testing.assert_array_equal(y, x * 5)


def test_edited_ptx_that_does_not_fit() -> None:
    done = scaled.compile(*ROWS, target="sm_80")
    with pytest.raises(
        tc.TilecError, match=r"with_ptx needs the kernel scaled\(u64, .*\), found no such kernel"
    ):
        done.with_ptx(done.ptx.replace("scaled", "other"))
    with pytest.raises(tc.TilecError, match=r"with_ptx needs the kernel scaled\(.*f32\), found \(.*f64\)"):
        done.with_ptx(done.ptx.replace(".param .f32 scaled", ".param .f64 scaled"))
    with pytest.raises(tc.TilecError, match="cpu has no PTX: compile with"):
        scaled.compile(*ROWS, target="cpu").with_ptx("")
