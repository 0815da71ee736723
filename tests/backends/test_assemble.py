"""Assembling: what ptxas says is read, and what is missing is said."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tilec.backends.ptx import assemble as module
from tilec.backends.ptx import link
from tilec.backends.ptx.assemble import Assembled, Usage, assemble, describe_tools, find, sass
from tilec.ir.errors import TilecError
from tilec.ir.target import Target, target

needs_ptxas = pytest.mark.skipif(find("ptxas") is None, reason="no ptxas")

FRAME = """.version {version}
.target {name}
.address_size 64
.visible .entry k(.param .u64 p)
{{
 .reg .b32 r<9>; .reg .f32 f<99>; .reg .b64 d<9>;
 .shared .align 128 .b8 s[1024];
 ld.param.u64 d0, [p];
 {body}
 ret;
}}
"""


def frame(gpu: Target, body: str) -> str:
    return FRAME.format(version=gpu.ptx_version / 10, name=gpu.name, body=body)


@needs_ptxas
def test_a_kernels_needs_are_read() -> None:
    body = (
        "mov.u32 r0, s; st.shared.u32 [r0], r1; bar.sync 0; ld.shared.u32 r2, [r0]; st.global.u32 [d0], r2;"
    )
    done = assemble(frame(target("sm_90a"), body), target("sm_90a"))
    assert list(done.kernels) == ["k"]
    assert done.kernels["k"].barriers == 1 and done.shared_bytes == 1024
    assert 4 <= done.registers <= 32
    assert done.spill_bytes == done.spill_store_bytes == done.spill_load_bytes == done.stack_bytes == 0
    assert done.cubin[:4] == b"\x7fELF" and "Compiling entry function 'k'" in done.log


@needs_ptxas
def test_spills_are_read() -> None:
    loads = " ".join(f"ld.global.f32 f{i}, [d0+{i * 4}];" for i in range(96))
    stores = " ".join(f"st.global.f32 [d0+{4000 - i * 4}], f{i};" for i in range(96))
    text = frame(target("sm_80"), loads + " bar.sync 0; " + stores)
    done = assemble(text.replace("u64 p)", "u64 p) .maxnreg 24"), target("sm_80"))
    assert done.registers <= 24 and done.stack_bytes >= 200
    assert done.spill_store_bytes >= 200 and done.spill_load_bytes >= 200
    assert done.spill_bytes == done.spill_store_bytes + done.spill_load_bytes


def test_the_log_of_two_kernels() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'small' for 'sm_80'
ptxas info    : Function properties for small
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compiling entry function 'large' for 'sm_80'
ptxas info    : Function properties for large
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 48 bytes cumulative stack size, 16384 bytes smem
"""
    kernels = module._usage(log)
    assert kernels == {"small": Usage(10), "large": Usage(255, 44, 40, 48, 16384, 2)}
    done = Assembled(b"", kernels, log)
    assert (done.registers, done.spill_bytes, done.stack_bytes, done.shared_bytes) == (255, 84, 48, 16384)


@needs_ptxas
def test_refused_text_is_shown() -> None:
    said = r"(?s)ptxas .* \(.*\) refuses the PTX for sm_80:.*line 9.*\n    bogus.f32 f0, f1;"
    with pytest.raises(TilecError, match=said):
        assemble(frame(target("sm_80"), "bogus.f32 f0, f1;"), target("sm_80"))


@pytest.mark.skipif(find("ptxas") is None or find("nvdisasm") is None, reason="no ptxas or no nvdisasm")
def test_sass_is_text() -> None:
    code = sass(assemble(frame(target("sm_90a"), "st.global.f32 [d0], f1;"), target("sm_90a")).cubin)
    assert len(re.findall(r"\bSTG\.E\b", code)) == 1 and "EXIT" in code


def fake(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return tool


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a toolkit on PATH and without wheels; the folder is its PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    return tmp_path / "bin"


def test_no_assembler(bare: Path) -> None:
    with pytest.raises(TilecError, match=r"the cubin needs ptxas, .* pip install 'tilec\[ptxas\]'.* neither"):
        assemble("", target("sm_80"))
    with pytest.raises(TilecError, match=r"SASS needs nvdisasm, .* pip install 'tilec\[ptxas\]'"):
        sass(b"")
    assert describe_tools() == [(name, None, "") for name in ("ptxas", "nvjitlink", "nvdisasm", "cuobjdump")]


def test_cuobjdump_serves_where_nvdisasm_is_not(bare: Path) -> None:
    fake(bare, "cuobjdump", 'echo "$1 of $2"')
    assert sass(b"cubin").startswith("-sass of ")


def test_a_disassembler_that_fails_is_our_fault(bare: Path) -> None:
    fake(bare, "nvdisasm", "echo no ELF >&2; exit 1")
    with pytest.raises(AssertionError, match="can't read what ptxas wrote: no ELF"):
        sass(b"cubin")


def test_versions_of_tools(bare: Path) -> None:
    ptxas = fake(bare, "ptxas", "echo Cuda compilation tools, release 12.9, V12.9.86")
    odd = fake(bare, "nvdisasm", "echo something else")
    assert describe_tools()[:3:2] == [("ptxas", ptxas, "12.9.86"), ("nvdisasm", odd, "unknown")]


def test_the_wheels_tools(tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path / "nvidia"),)

    monkeypatch.setattr(module, "find_spec", lambda name: Spec if name == "nvidia" else None)
    old, new = (fake(tmp_path / "nvidia" / wheel / "bin", "ptxas", "exit 1") for wheel in ("cu12", "cu13"))
    assert find("ptxas") == new
    assert list(module._places("ptxas")) == [new, old]
    on_path = fake(bare, "ptxas", "exit 1")
    assert find("ptxas") == on_path


def test_an_old_ptxas_gives_way_to_a_newer_one(
    tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(bare, "ptxas", '[ "$1" = --version ] && echo V11.8.89 || { echo Unsupported .version 8.4; exit 1; }')
    said = r"ptxas 11\.8\.89 \(.*\) is too old for sm_90a, written as PTX 8\.4: pip install"
    with pytest.raises(TilecError, match=said):
        assemble("", target("sm_90a"))

    class Spec:
        submodule_search_locations = (str(tmp_path / "nvidia"),)

    monkeypatch.setattr(module, "find_spec", lambda name: Spec)
    writes = 'while [ "$1" != -o ]; do shift; done; echo new > "$2"'
    fake(tmp_path / "nvidia" / "cuda_nvcc" / "bin", "ptxas", writes)
    assert assemble("", target("sm_90a")).cubin == b"new\n"


@needs_ptxas
def test_the_tools_here_are_described() -> None:
    for name, path, version in describe_tools():
        assert (path is None) == (version == "")
        if path is not None:
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
            assert subprocess.run([path, "--version"], capture_output=True).returncode == 0


class Linker:
    """cuda.bindings.nvjitlink as far as it is used; `status` is what the link ends with."""

    nvJitLinkError = type("nvJitLinkError", (Exception,), {})
    InputType = SimpleNamespace(PTX=1)

    def __init__(self, log: bytes, error: bytes = b"") -> None:
        self.log, self.error, self.open = log, error, 0

    def version(self) -> tuple[int, int]:
        return 13, 5

    def create(self, count: int, options: list[str]) -> int:
        assert count == len(options)
        if options[0] == "-arch=sm_120":
            raise self.nvJitLinkError("unrecognised option")
        self.open += 1
        return 7

    def add_data(self, handle: int, kind: int, data: bytes, size: int, name: str) -> None:
        assert (handle, kind, len(data)) == (7, 1, size)

    def complete(self, handle: int) -> None:
        if self.error:
            raise self.nvJitLinkError("ERROR_PTX_COMPILE")

    def destroy(self, handle: int) -> None:
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        text = {"linked_cubin": b"\x7fELF", "info_log": self.log, "error_log": self.error}
        data = text[name.removeprefix("get_").removesuffix("_size")]
        if name.endswith("_size"):
            return lambda handle: len(data)
        return lambda handle, room: room.__setitem__(slice(None), data)


@pytest.fixture
def linker(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Linker]:
    """A machine with nvJitLink and no ptxas."""
    made = Linker(b"ptxas info    : Compiling entry function 'k' for 'sm_80'\nUsed 12 registers\n\0")
    monkeypatch.setattr(link, "_binding", lambda: made)
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace(origin="/there/nvjitlink.so")
                        if name.startswith("cuda") else None)  # fmt: skip
    link.version.cache_clear()
    yield made
    link.version.cache_clear()
    assert not made.open


def test_nvjitlink_serves_where_ptxas_is_not(linker: Linker) -> None:
    done = assemble("text", target("sm_80"))
    assert (done.cubin, done.registers, module.assembler()) == (b"\x7fELF", 12, "nvJitLink 13.5")
    assert describe_tools()[1] == ("nvjitlink", Path("/there/nvjitlink"), "13.5")
    with pytest.raises(TilecError, match=r"nvJitLink 13\.5 is too old for sm_120"):
        assemble("text", target("sm_120"))
    linker.error = b"ptxas kernel.ptx, line 1; error   : Not a name of any known instruction\0"
    with pytest.raises(TilecError, match=r"(?s)nvJitLink 13\.5 refuses the PTX for sm_80:.*known.*\n  +text"):
        assemble("text", target("sm_80"))


def test_ptxas_goes_first_until_nvjitlink_is_loaded(
    linker: Linker, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(bare, "ptxas", "echo Cuda compilation tools, release 13.0, V13.0.1")
    monkeypatch.delitem(sys.modules, link.BINDING, raising=False)
    assert [tool.name for tool in module._assemblers()] == ["ptxas", "nvjitlink"]
    monkeypatch.setitem(sys.modules, link.BINDING, ModuleType("loaded"))
    assert [tool.name for tool in module._assemblers()] == ["nvjitlink", "ptxas"]


def test_a_binding_without_its_library_is_none(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("libnvJitLink.so.13 was not found")

    link.version.cache_clear()
    monkeypatch.setattr(link, "_binding", missing)
    assert link.version() == ""
    link.version.cache_clear()


def test_neither_binding_nor_package(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name.split('.')[0]!r}")

    monkeypatch.setattr(module, "find_spec", none)
    assert list(module._places("nvjitlink")) == []
