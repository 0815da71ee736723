"""LLVM: exact arithmetic on both sides, nothing contracted, and mistakes that come back as errors."""

import ctypes
import dataclasses
import mmap
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tilec.backends import llvm
from tilec.backends.ptx.assemble import assemble, find, sass
from tilec.ir.errors import TilecError
from tilec.ir.target import CPU, SM_80, SM_120, TARGETS, Target

GPUS = [t for t in TARGETS.values() if t.kind == "ptx"]
each_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
needs_sass = pytest.mark.skipif(
    find("ptxas") is None or find("nvdisasm") is None, reason="no ptxas, nvdisasm"
)
PTR, I64 = ctypes.c_void_p, ctypes.c_int64

FLOATS = ("half", "bfloat", "float", "double", "<2 x half>", "<2 x bfloat>", "<2 x float>")


def kernel(body: str, declarations: str = "") -> str:
    return (
        f"{declarations}\ndefine ptx_kernel void @k(ptr addrspace(1) align 16 %p) {{\n{body}\nret void\n}}\n"
    )


def multiply_add(dtype: str) -> str:
    """p[0] = p[0] * p[1] + p[2], as two instructions."""
    lines = ["%a = load T, ptr addrspace(1) %p"]
    for i, name in enumerate("bc", 1):
        lines.append(f"%{name}p = getelementptr T, ptr addrspace(1) %p, i64 {i}")
        lines.append(f"%{name} = load T, ptr addrspace(1) %{name}p")
    lines += ["%m = fmul T %a, %b", "%s = fadd T %m, %c", "store T %s, ptr addrspace(1) %p"]
    return kernel("\n".join(lines).replace("T", dtype))


def function(module: llvm.NativeModule, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.CFUNCTYPE(result, *arguments)(module.address(name))


@each_gpu
def test_ptx_is_for_its_target(gpu: Target) -> None:
    ptx = llvm.to_ptx(kernel(""), gpu)
    assert f".version {gpu.ptx_version / 10}\n.target {gpu.name}\n" in ptx
    assert ".visible .entry k(" in ptx


@each_gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_ptx_is_not_contracted(gpu: Target, dtype: str) -> None:
    """Every add and mul says .rn, or ptxas would fuse them. Where there is no bf16 add, it is a * 1 + b."""
    ptx = llvm.to_ptx(multiply_add(dtype), gpu)
    instructions = re.findall(
        r"^\s*((?:add|mul|fma)\S*\.(?:bf16x2|bf16|f16x2|f16|f32x2|f32|f64))\s", ptx, re.M
    )
    assert len(instructions) >= 2
    assert all(".rn." in name for name in instructions)
    fused = [name for name in instructions if name.startswith("fma")]
    assert len(fused) == (2 if "bfloat" in dtype and not gpu.has("bf16_arithmetic") else 0)


THREE_KERNELS = "\n".join(
    multiply_add(dtype).replace("@k", f"@{name}")
    for name, dtype in (("F", "float"), ("D", "double"), ("H", "<2 x half>"))
)


def arithmetic(text: str, gpu: Target, exact: bool = True) -> dict[str, int]:
    """How many instructions multiply or add, by the letter that SASS gives the type."""
    ptx = llvm.to_ptx(text, gpu)
    code = sass(assemble(ptx if exact else re.sub(r"(mul|add)\.rn", r"\1", ptx), gpu).cubin)
    return {letter: len(re.findall(rf"\b{letter}(?:MUL|ADD|FMA)2?\b", code)) for letter in "FDH"}


@needs_sass
@each_gpu
def test_sass_is_not_contracted(gpu: Target) -> None:
    """Two instructions for two roundings."""
    assert arithmetic(THREE_KERNELS, gpu) == {"F": 2, "D": 2, "H": 2}


@needs_sass
def test_sass_would_be_contracted_without_rn() -> None:
    assert arithmetic(THREE_KERNELS, SM_80, exact=False) == {"F": 1, "D": 1, "H": 1}


def test_an_fma_that_was_written_is_one() -> None:
    text = multiply_add("float").replace(
        "fmul float %a, %b", "call float @llvm.fma.f32(float %a, float %b, float %c)"
    )
    ptx = llvm.to_ptx("declare float @llvm.fma.f32(float, float, float)\n" + text, SM_80)
    assert "fma.rn.f32" in ptx


def test_division_and_root_are_exact_on_a_gpu() -> None:
    body = """%a = load float, ptr addrspace(1) %p
  %d = fdiv float 3.0, %a
  %r = call float @llvm.sqrt.f32(float %d)
  store float %r, ptr addrspace(1) %p"""
    text = kernel(body, "declare float @llvm.sqrt.f32(float)")
    ptx = llvm.to_ptx(text, SM_80)
    assert "div.rn.f32" in ptx and "sqrt.rn.f32" in ptx and ".ftz" not in ptx


def test_loops_stay_rolled() -> None:
    body = """br label %loop
loop:
  %i = phi i32 [0, %0], [%next, %loop]
  %at = getelementptr i32, ptr addrspace(1) %p, i32 %i
  store i32 %i, ptr addrspace(1) %at
  %next = add i32 %i, 1
  %more = icmp ult i32 %next, 8
  br i1 %more, label %loop, label %done
done:"""
    assert llvm.to_ptx(kernel(body), SM_80).count("st.global") == 1


def test_what_is_no_intrinsic_is_named() -> None:
    body = "%x = call float @llvm.nvvm.tanh.approx.f(float 1.0)\nstore float %x, ptr addrspace(1) %p\n"
    body += "call void @other(i32 1)"
    declarations = "declare float @llvm.nvvm.tanh.approx.f(float)\ndeclare void @other(i32)"
    with pytest.raises(
        AssertionError, match=r"LLVM has no intrinsic llvm\.nvvm\.tanh\.approx\.f, other: it became"
    ):
        llvm.to_ptx(kernel(body, declarations), SM_80)


@pytest.mark.parametrize(
    "name", ["sin.f32", "tanh.f16", "log2.f32", "pow.f64", "exp2.f64", "powi.f32.i32", "exp.v2f32"]
)
def test_what_would_end_the_process_is_refused(name: str) -> None:
    with pytest.raises(
        TilecError, match=rf"internal: NVPTX has no @llvm\.{re.escape(name)}\n->     1 declare"
    ):
        llvm.to_ptx(f"declare float @llvm.{name}(float)\n", SM_80)


@pytest.mark.parametrize(
    "name", ["exp2.f32", "sqrt.f32", "fma.f32", "floor.f32", "minimum.f32", "nvvm.ex2.approx.f"]
)
def test_what_nvptx_has_is_let_through(name: str) -> None:
    assert llvm.NOT_ON_NVPTX.search(f"@llvm.{name}(") is None


def test_a_ptx_version_the_target_has_not() -> None:
    said = r"internal: sm_120 as PTX 8\.6: it needs at least 8\.7, and llvmlite .* writes up to \d\.\d"
    with pytest.raises(TilecError, match=said):
        llvm.to_ptx(kernel(""), dataclasses.replace(SM_120, ptx_version=86))
    with pytest.raises(TilecError, match=r"internal: sm_120 as PTX 99\.0"):
        llvm.optimise(kernel(""), dataclasses.replace(SM_120, ptx_version=990))
    with pytest.raises(AssertionError, match="cpu does not run PTX"):
        llvm.to_ptx(kernel(""), CPU)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "define void @f() {\n  %x = bogus\n  ret void\n}",
            "expected instruction opcode.*\n->     2   %x = bogus",
        ),
        ("define i32 @f() {\n  ret i32 %y\n}", "undefined value '%y'.*\n->     2   ret i32 %y"),
        (
            "define void @f(i1 %c) {\n  br i1 %c, label %a, label %b\na:\n  %x = add i32 1, 1\n"
            "  br label %b\nb:\n  %y = add i32 %x, 1\n  ret void\n}",
            "does not dominate.*\n->     4   %x = add i32 1, 1\n.*->     7   %y = add i32 %x, 1",
        ),
    ],
)
def test_refused_ir_is_shown(text: str, said: str) -> None:
    for compiler in (llvm.compile_native, lambda t: llvm.to_ptx(t, SM_80), lambda t: llvm.optimise(t, CPU)):
        with pytest.raises(TilecError, match=rf"(?s)internal: .*{said}"):
            compiler(text)


def test_optimised_text() -> None:
    text = "define i32 @f(i32 %a) {\n  %x = mul i32 %a, 8\n  %y = add i32 %x, 0\n  ret i32 %y\n}"
    assert "shl i32 %a, 3" in llvm.optimise(text, CPU)
    assert "shl i32 %a, 3" in llvm.optimise(text, SM_80)
    assert "mul i32 %a, 8" in llvm.optimise(text, CPU, opt=0)


def test_native_code_runs() -> None:
    module = llvm.compile_native("define i64 @twice(i64 %a) {\n  %x = add i64 %a, %a\n  ret i64 %x\n}")
    assert function(module, "twice", I64, I64)(21) == 42
    assert re.search("define .*i64 @twice", module.llvm) and "twice:" in module.asm
    with pytest.raises(TilecError, match="internal: can't find 'thrice' in the native code"):
        module.address("thrice")


def test_native_code_comes_back_from_bytes() -> None:
    made = llvm.compile_native("define i64 @f(i64 %a) {\n  ret i64 %a\n}")
    again = llvm.load_native(made.object_bytes, made.bitcode)
    assert function(again, "f", I64, I64)(7) == 7 and again.llvm == made.llvm
    bare = llvm.load_native(made.object_bytes)
    assert function(bare, "f", I64, I64)(7) == 7 and bare.llvm == bare.asm == ""


@pytest.mark.skipif(sys.platform == "win32", reason="its linker may spread a module")
def test_constants_lie_beside_code_also_between_large_arrays() -> None:
    """Gigabytes, untouched, wherever the system puts them: a module's parts must not end up on two sides."""
    table = ", ".join(f"i64 {i * i}" for i in range(300))
    text = (
        f"@t = private constant [300 x i64] [{table}]\n"
        "define i64 @f(i64 %i) {\n  %p = getelementptr [300 x i64], ptr @t, i64 0, i64 %i\n"
        "  %x = load i64, ptr %p\n  ret i64 %x\n}"
    )
    held: list[Any] = []
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    for _ in range(24):
        held += [mmap.mmap(-1, 3 << 30, flags=flags), llvm.compile_native(text)]
        assert function(held[-1], "f", I64, I64)(20) == 400
    for mapped in held[::2]:
        mapped.close()


def test_object_code_that_is_none() -> None:
    with pytest.raises(TilecError, match="internal: LLVM can't load its own object code"):
        llvm.load_native(b"not an object file")


def test_a_missing_callee_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    module = llvm.compile_native(
        "declare void @nowhere()\ndefine void @f() {\n  call void @nowhere()\n  ret void\n}"
    )
    with pytest.raises(
        TilecError, match="internal: can't find 'f' in the native code, or something that it calls"
    ):
        module.address("f")
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "name"), [("float", np.float32), ("double", np.float64), ("half", np.float16)]
)
def test_native_arithmetic_is_numpys(opt: int, dtype: str, name: type[np.floating[Any]]) -> None:
    """a * b + c in two roundings, over vectors: the same bits as numpy, subnormals included."""
    text = """define void @f(ptr %p) {
  %a = load <8 x T>, ptr %p, align 1
  %bp = getelementptr T, ptr %p, i64 8
  %b = load <8 x T>, ptr %bp, align 1
  %cp = getelementptr T, ptr %p, i64 16
  %c = load <8 x T>, ptr %cp, align 1
  %m = fmul <8 x T> %a, %b
  %s = fadd <8 x T> %m, %c
  %d = fdiv <8 x T> %s, %b
  store <8 x T> %d, ptr %p, align 1
  ret void
}"""
    module = llvm.compile_native(text.replace("T", dtype), opt)
    run = function(module, "f", None, PTR)
    rng = np.random.default_rng(opt)
    tiny = np.finfo(name).smallest_subnormal
    for scale in (1.0, float(tiny) * 50):
        a, b, c = (rng.standard_normal((3, 8)) * scale).astype(name)
        b[b == 0] = 1
        memory = np.stack([a, b, c])
        expected = (a * b + c) / b
        run(memory.ctypes.data)
        assert memory[0].tobytes() == expected.tobytes()


@pytest.mark.skipif("x86" not in llvm.host().triple, reason="reads x86 assembly")
def test_native_code_is_not_contracted() -> None:
    text = """define <8 x float> @f(<8 x float> %a, <8 x float> %b, <8 x float> %c) {
  %m = fmul <8 x float> %a, %b
  %s = fadd <8 x float> %m, %c
  ret <8 x float> %s
}"""
    asm = llvm.compile_native(text, opt=3).asm
    assert "mulps" in asm and "addps" in asm and "fmadd" not in asm


def test_rounding_to_bf16_by_hardware_is_off() -> None:
    """vcvtneps2bf16 takes subnormals for zero, so code that leans on it must not be made."""
    on = {f.lstrip("+") for f in llvm.host().features.split(",") if f.startswith("+")}
    assert not on & set(llvm.FLUSHES_SUBNORMALS)
    assert llvm.host().vector_bytes in (16, 32, 64)
    assert (llvm.host().vector_bytes == 64) >= llvm.host().has_avx512


def test_many_threads_compile_at_once() -> None:
    wrong = []

    def work(first: int) -> None:
        for number in range(first, first + 4):
            text = f"define i64 @f(i64 %a) {{\n  %x = add i64 %a, {number}\n  ret i64 %x\n}}"
            if (
                function(module := llvm.compile_native(text), "f", I64, I64)(1) != number + 1
                or not module.llvm
            ):
                wrong.append(number)
            if f", {number};" not in llvm.to_ptx(kernel(f"store i32 {number}, ptr addrspace(1) %p"), SM_80):
                wrong.append(-number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(1000, 1400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_look_a_function_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look-up gives owns the code: where two threads got one, the first was freed under the other."""
    module = llvm.compile_native("define void @f() {\n ret void\n}")
    asked, found, look_up = [], [], module._look_up

    def slow(name: str) -> Any:
        asked.append(name)
        time.sleep(0.05)
        return look_up(name)

    monkeypatch.setattr(module, "_look_up", slow)
    threads = [threading.Thread(target=lambda: found.append(module.address("f"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["f"] and len(found) == 4 and len(set(found)) == 1


def test_a_process_with_native_code_ends_cleanly() -> None:
    code = (
        "import tilec\nfrom tilec.backends import llvm\n"
        "class Kept: pass\n"
        "kept = Kept(); kept.self = kept\n"
        "kept.code = llvm.compile_native('define void @f() {\\n ret void\\n}'); kept.code.address('f')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_said() -> None:
    assert re.fullmatch(r"llvmlite \d+\.\d+\.\d+\S* \(LLVM \d+\.\d+\.\d+\)", llvm.version())


def test_without_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.delitem(sys.modules, "llvmlite.binding", raising=False)
    with pytest.raises(TilecError, match=r"compiling needs llvmlite, and it .*; pip install llvmlite"):
        llvm._llvmlite.__wrapped__()
