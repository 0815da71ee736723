"""The kernel's source lines in its PTX."""

import re
from pathlib import Path

import numpy as np
import pytest

import tilec as tc
from tilec.backends.ptx.assemble import assemble, find
from tilec.backends.ptx.locations import escaped, located, mark
from tilec.ir.errors import Loc
from tilec.ir.target import target


def twice(x: tc.Tile) -> tc.Tile:
    return x + x


@tc.kernel
def add(x: tc.Array, out: tc.Array) -> None:
    i = tc.blocks(tc.cdiv(x.shape[0], 64))
    y = twice(x.load(i * 64, 64))
    out.store(i * 64, y)


def ptx_of(kernel: tc.Kernel) -> str:
    return kernel.compile(tc.Spec("f32", ("n",)), tc.Spec("f32", ("n",)), target="sm_80").ptx


def line_of(text: str) -> int:
    return 1 + Path(__file__).read_text().splitlines().index(text)


def test_instructions_are_at_their_lines() -> None:
    ptx = ptx_of(add)
    assert f'"{__file__}"' in ptx
    before = {
        op: re.findall(r"\.loc\s+\d+ (\d+)", ptx[: ptx.index(op)])[-1] for op in ("add.rn.f32", "st.global")
    }
    assert int(before["add.rn.f32"]) == line_of("    return x + x")
    assert int(before["st.global"]) == line_of("    out.store(i * 64, y)")


@pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")
def test_they_cost_nothing() -> None:
    """ptxas makes the same of it without them."""
    ptx = ptx_of(add)
    bare = re.sub(r"^\s*\.(loc|file)\b.*$", "", ptx, flags=re.MULTILINE)
    assert assemble(ptx, target("sm_80")).kernels == assemble(bare, target("sm_80")).kernels


def test_files_with_any_name(tmp_path: Path) -> None:
    path = tmp_path / 'a "name" with ü.py'
    path.write_text(
        "import tilec as tc\n"
        "@tc.kernel\n"
        "def k(x: tc.Array, out: tc.Array):\n"
        "    tc.blocks(1)\n"
        "    out.store(0, x.load(0, 4))\n"
    )
    names: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    kernel = names["k"]
    assert isinstance(kernel, tc.Kernel)
    out = np.zeros(4, np.float32)
    kernel.on("emulator:sm_80")(np.ones(4, np.float32), out)
    assert out.tolist() == [1, 1, 1, 1]
    assert escaped('C:\\"ü"') == "C:/'\\C3\\BC'"


def test_marks_become_places() -> None:
    lines = ["  first"]
    mark(lines, Loc("a.py", 3))
    lines.append("  second")
    mark(lines, None)
    lines += ["label:", "  third"]
    found, metadata = located(lines, "k")
    assert found == ["  first", "  second, !dbg !22", "label:", "  third, !dbg !22"]
    assert metadata[-3:] == [
        '!20 = !DIFile(filename: "a.py", directory: "")',
        "!21 = !DILexicalBlockFile(scope: !10, file: !20, discriminator: 0)",
        "!22 = !DILocation(line: 3, scope: !21)",
    ]
    assert located(["  first"], "k") == (["  first"], [])
