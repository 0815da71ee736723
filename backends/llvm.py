"""LLVM IR text to PTX, and to native code. The only file that touches llvmlite, which loads at the first use.

    to_ptx(text, target("sm_90a"))               # text holds `define ptx_kernel void @name(...)`
    compile_native(text).address("name")         # a function of this process

Nothing is contracted: fmul and fadd become mul.rn and add.rn on a GPU (which ptxas leaves apart) and two
instructions on the CPU. An error of LLVM's is a mistake of ours, and names the lines of IR it is about. Some
of LLVM's errors end the process: what is known to cause them is refused before LLVM sees it.

Not for the CPU: `fptrunc ... to bfloat`. The instructions that do it take subnormals for zero, so they are
switched off, and what LLVM calls instead is not there; round with integer operations.
"""

import itertools
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from tilec.ir.errors import TilecError
from tilec.ir.target import Target

NVPTX = "nvptx64-nvidia-cuda"
NEWEST_PTX = {20: 87, 21: 88, 22: 90}  # by LLVM's version; it ignores what it does not know
# LLVM ends the process on these: NVPTX has neither an instruction nor a library for them.
NOT_ON_NVPTX = re.compile(
    r"@llvm\.(?:a?sin|a?cos|a?tan|atan2|sincos|sinh|cosh|tanh|exp|exp10|log|log2|log10|pow|powi|exp2(?=\.f64)"
    r"|lrint|llrint|lround|llround|frexp|modf|canonicalize)\.[\w.]+"
)
# Extensions that LLVM would use to round to bf16.
FLUSHES_SUBNORMALS = ("avx512bf16", "avxneconvert", "amx-bf16")
# Accesses stay as wide as they are written. The one pass cuts vectors up; the other would put them together
# again, and read past the end of an array where that fills one. Native code is the same without.
OPTIONS = ("-disable-vector-combine", "-disable-nvptx-load-store-vectorizer")


@dataclass(frozen=True)
class Host:
    """This machine's CPU as LLVM sees it; `features` is part of what compiled code depends on."""

    cpu: str
    features: str
    triple: str
    vector_bytes: int  # of the widest vector registers
    has_avx512: bool
    has_neon: bool


@cache
def host() -> Host:
    """The CPU under this process."""
    binding = _llvmlite()
    found = dict(binding.get_host_cpu_features())
    found.update({name: False for name in FLUSHES_SUBNORMALS if name in found})
    on = {name for name, has in found.items() if has}
    neon = "neon" in on or platform.machine().lower() in ("arm64", "aarch64")
    return Host(
        cpu=binding.get_host_cpu_name(),
        features=",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(found.items())),
        triple=binding.get_process_triple(),
        vector_bytes=64 if "avx512f" in on else 32 if "avx" in on else 16,
        has_avx512={"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= on,
        has_neon=neon,
    )


def version() -> str:
    """The versions of llvmlite and of its LLVM: "llvmlite 0.50.0 (LLVM 22.1.0)"."""
    numbers = _llvmlite().llvm_version_info
    from llvmlite import __version__

    return f"llvmlite {__version__} (LLVM {'.'.join(map(str, numbers))})"


def to_ptx(text: str, target: Target) -> str:
    """PTX for LLVM IR text. TilecError ("internal: ...") with the lines of IR that LLVM refuses."""
    _check_nvptx(text, target)
    machine = _machine(target, 3)
    module = _optimised(text, machine, True)
    try:
        ptx: str = machine.emit_assembly(module)
    except RuntimeError as error:
        raise _internal(error, text) from error
    missing = re.findall(r"^\.extern \.func\b[^;]*?([\w$.]+)\s*(?:\([^()]*\))?\s*;", ptx, re.MULTILINE)
    assert not missing, f"LLVM has no intrinsic {', '.join(sorted(set(missing)))}: it became an extern call"
    return ptx


def optimise(text: str, target: Target, opt: int = 2) -> str:
    """The LLVM IR that code is generated from: `text` after LLVM's passes. Errors as in to_ptx."""
    gpu = target.kind == "ptx"
    if gpu:
        _check_nvptx(text, target)
    return str(_optimised(text, _machine(target, opt), gpu, opt))


class NativeModule:
    """Machine code in this process. It lives as long as this object: keep that while a function of it runs.

    `object_bytes` and `bitcode` together bring it back (load_native) on a machine with the same host().
    """

    def __init__(self, object_bytes: bytes, bitcode: bytes = b"") -> None:
        self.object_bytes = object_bytes
        self.bitcode = bitcode
        self._jit, self._library = _jit(), f"tilec.{next(_numbers)}"
        builder = _llvmlite().JITLibraryBuilder().add_object_img(object_bytes).add_current_process()
        try:
            self._code = builder.link(self._jit, self._library)
        except RuntimeError as error:
            raise TilecError(f"internal: LLVM can't load its own object code: {error}") from error
        self._functions: dict[str, Any] = {}
        self._lock = Lock()

    def address(self, name: str) -> int:
        """Where the function `name` starts; TilecError where there is none."""
        with self._lock:  # what a look-up gives owns the code: a second one, dropped, would free it
            if name not in self._functions:
                self._functions[name] = self._look_up(name)
        return int(self._functions[name][name])

    def _look_up(self, name: str) -> Any:
        try:
            return self._jit.lookup(self._library, name)
        except RuntimeError as error:
            raise TilecError(
                f"internal: can't find {name!r} in the native code, or something that it calls: {error} "
                "(LLVM names what is missing on standard error)"
            ) from error

    @property
    def llvm(self) -> str:
        """The LLVM IR after optimisation; "" where it was loaded without."""
        return str(self._module()) if self.bitcode else ""

    @property
    def asm(self) -> str:
        """The assembly text; "" where it was loaded without bitcode."""
        return str(_native_machine(2).emit_assembly(self._module())) if self.bitcode else ""

    def _module(self) -> Any:
        binding = _llvmlite()
        return binding.parse_bitcode(self.bitcode, binding.create_context())


def compile_native(text: str, opt: int = 2) -> NativeModule:
    """Native code for LLVM IR text, ready to call in this process. Errors as in to_ptx."""
    machine = _native_machine(opt)
    module = _optimised(text, machine, False, opt)
    try:
        return load_native(machine.emit_object(module), module.as_bitcode())
    except RuntimeError as error:
        raise _internal(error, text) from error


def load_native(object_bytes: bytes, bitcode: bytes = b"") -> NativeModule:
    """What compile_native made, from its bytes."""
    return NativeModule(object_bytes, bitcode)


@cache
def _llvmlite() -> Any:
    try:
        from llvmlite import binding
    except (ImportError, OSError) as error:
        raise TilecError(
            f"compiling needs llvmlite, and it cannot be loaded: {error}; pip install llvmlite"
        ) from None
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    for option in OPTIONS:
        binding.set_option("tilec", option)
    return binding


@cache
def _machine(target: Target, opt: int) -> Any:
    if target.kind != "ptx":
        return _native_machine(opt)
    nvptx = _llvmlite().Target.from_triple(NVPTX)
    return nvptx.create_target_machine(target.name, f"+ptx{target.ptx_version}", opt, codemodel="default")


@cache
def _native_machine(opt: int) -> Any:
    """Position-independent and small: calls out of it go through stubs, its constants lie beside it."""
    native, cpu = _llvmlite().Target.from_triple(host().triple), host()
    return native.create_target_machine(cpu.cpu, cpu.features, opt, reloc="pic", codemodel="small", jit=True)


@cache
def _jit() -> Any:
    """JITLink gives a module one piece of memory. The older linker, all that Windows has, spreads it, and
    ends the process where arrays of gigabytes lie between code and constants."""
    return _llvmlite().create_lljit_compiler(_native_machine(2), use_jit_link=sys.platform != "win32")


_numbers = itertools.count()  # a library's name can't be used twice


def _check_nvptx(text: str, target: Target) -> None:
    """Refuses what ends the process inside LLVM: PTX older than the target, an operation NVPTX lacks."""
    assert target.kind == "ptx", f"{target.name} does not run PTX"
    newest = NEWEST_PTX.get(_llvmlite().llvm_version_info[0], max(NEWEST_PTX.values()))
    if not target.oldest_ptx_version <= target.ptx_version <= newest:
        raise TilecError(
            f"internal: {target.name} as PTX {target.ptx_version / 10}: it needs at least "
            f"{target.oldest_ptx_version / 10}, and {version()} writes up to {newest / 10}"
        )
    refused = NOT_ON_NVPTX.search(text)
    if refused:
        raise TilecError(f"internal: NVPTX has no {refused[0]}\n{_around(text, refused.start())}")


def _optimised(text: str, machine: Any, gpu: bool, opt: int = 2) -> Any:
    """The module after LLVM's passes, in a context of its own, so that nothing is kept once it is dropped."""
    binding = _llvmlite()
    try:
        module = binding.parse_assembly(text, binding.create_context())
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise _internal(error, text) from error
    if opt:
        passes = binding.create_pass_builder(machine, _tuning(binding, gpu, opt))
        passes.getModulePassManager().run(module, passes)
    return module


def _tuning(binding: Any, gpu: bool, opt: int) -> Any:
    """Emitters unroll what pays; LLVM's own unrolling doubles compile time and undoes their schedule."""
    tuning = binding.create_pipeline_tuning_options(speed_level=opt)
    tuning.loop_unrolling = tuning.slp_vectorization = False
    tuning.loop_vectorization = tuning.loop_interleaving = not gpu
    return tuning


def _internal(error: Exception, text: str) -> TilecError:
    """LLVM's complaint and the lines of IR it is about."""
    message = str(error).strip()
    at = re.search(r"<string>:(\d+):", message)
    if at:
        start = sum(len(line) + 1 for line in text.splitlines()[: int(at[1]) - 1])
        return TilecError(f"internal: {message}\n{_around(text, start)}")
    quoted = [line.strip() for line in message.splitlines() if line.startswith("  ") and line.strip() in text]
    shown = "\n".join(_around(text, text.index(line)) for line in quoted[:3])
    return TilecError(f"internal: LLVM refuses its input: {message}\n{shown}".rstrip())


def _around(text: str, position: int) -> str:
    """The line at a position of the text, with its number and its neighbours."""
    lines, here = text.splitlines(), text.count("\n", 0, position)
    near = range(max(0, here - 1), min(len(lines), here + 2))
    return "\n".join(f"{'->' if i == here else '  '} {i + 1:5} {lines[i]}" for i in near)
