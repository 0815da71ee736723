"""The command line: every command, and every way to use it wrongly."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec as tc
from tilec import bench_emulator
from tilec.__main__ import main
from tilec.backends import cache
from tilec.checking import Outcome, check, told
from tilec.doctor import tried
from tilec.foreign import arguments
from tilec.scripts import first_call
from tilec.show import evaluated, parsed

ROOT = Path(__file__).parents[1]
BENCHES = "compile, call, emulator, loops, plan, linear, neighborhood, depthwise, fftconv"
KERNEL = '''"""A script."""
import numpy as np
import tilec as tc


@tc.kernel
def scale(x: tc.Array, y: tc.Array, alpha: tc.f32, *, block=64):
    X, Y = x.tiles((block,)), y.tiles((block,))
    i = tc.blocks(*Y.shape)
    Y[i] = X[i] * alpha


@tc.kernel
def crowd(x: tc.Array, y: tc.Array):
    """Every block writes the same element."""
    i = tc.blocks(x.shape[0])
    y.store(0, x.load(i, 1))


@tc.kernel
def idle(x: tc.Array):
    tc.blocks(1)


'''
CALL = """
if __name__ == "__main__":
    x = np.ones(100, np.float32)
    y = np.zeros(100, np.float32)
    print("before")
    scale(x, y, 2.0)
    print("after")
"""
CLEAN = CALL + "    assert (y == 2).all()\n"
CROWDED = CALL.replace("scale(x, y, 2.0)", "crowd(x, y); crowd(x, y)")


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(end: str = CLEAN) -> Path:
        path = tmp_path / "script.py"
        path.write_text(KERNEL + end)
        return path

    return write


Output = pytest.CaptureFixture[str]


def fails(capsys: Output, *arguments: str) -> str:
    """What a command that ends with 1 says."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert not printed.out
    return printed.err


# Wrong use.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("sing",), "invalid choice: 'sing'"),
        (("show", "a.py:b", "--stage", "c"), "argument --stage: invalid choice: 'c'"),
        (("show", "a.py:b", "--set", "bm"), "expected NAME=VALUE, found 'bm'"),
        (("bench", "compile", "--runs", "0"), "expected a number of 1 or more, found '0'"),
        (("bench", "compile", "--run", "2", "--fast"), "unrecognized arguments: --fast"),
        (("check", "--ptx", "a", "--grid", "0"), "expected one to three numbers of 1 or more, as in 8"),
        (("check", "a.py", "b.py"), "unrecognized arguments: b.py"),
        (("check", "--ptx", "a", "--shared", "-5"), "expected a number of 0 or more, found '-5'"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], text: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert text in capsys.readouterr().err


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "tilec", "bench"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"tilec: bench takes a name; there is {BENCHES}\n")


def test_version(capsys: Output) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"tilec {tc.__version__}\n")


def test_files_that_cannot_be_written(script: Any, capsys: Output) -> None:
    path = script()
    assert f"File exists: '{path}'" in fails(capsys, "docs", str(path))


def test_help_imports_little() -> None:
    code = "import sys; from tilec.__main__ import parser; parser(); print('llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# demo


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilec.ops import demo

    called = []
    monkeypatch.setattr(demo, "main", lambda: called.append(True))
    assert main(["demo"]) == 0
    assert called


# show


@pytest.mark.parametrize(
    ("stage", "text"),
    [("ir", "scale"), ("llvm", "define"), ("ptx", ".visible .entry scale"), ("sass", "EXIT")],
)
def test_show_what_a_script_calls(stage: str, text: str, script: Any, capsys: Output) -> None:
    if stage == "sass":
        pytest.importorskip("nvidia")
    assert main(["show", f"{script()}:scale", "--stage", stage, "--target", "sm_80"]) == 0
    printed = capsys.readouterr()
    assert text in printed.out
    assert printed.err == "before\n", "the script stops at the call, and prints elsewhere"


def test_show_specifications(script: Any, capsys: Output) -> None:
    path = script("")
    assert main(["show", f"{path}:scale", "--specs", "f32[n:4] f32[n]", "--set", "block=512"]) == 0
    wide = capsys.readouterr().out
    assert ".target sm_90a" in wide and ".v4" in wide
    assert main(["show", f"{path}:scale", "--specs", "f32[n] f32[n] f32", "--set", "block=512"]) == 0
    assert ".v4" not in capsys.readouterr().out


def test_show_the_cpu(script: Any, capsys: Output) -> None:
    assert main(["show", f"{script()}:scale", "--target", "cpu", "--stage", "asm"]) == 0
    assert "ret" in capsys.readouterr().out


def test_specifications() -> None:
    m, k, alpha = parsed("f16[m, k:8] u4[16,k] f32")
    assert repr(m) == repr(tc.Spec("f16", ("m", tc.dim("k", multiple=8))))
    assert repr(k) == repr(tc.Spec("u4", (16, "k")))
    assert alpha == 0.0 and isinstance(alpha, float)
    assert parsed("i32") == (0,)


@pytest.mark.parametrize("text", ["", "f16[m", "f16[m:]", "f16[]", "f16 [m] ]", "f16[-1]", "f16[m;n]"])
def test_specifications_that_cannot_be_read(text: str) -> None:
    with pytest.raises(tc.TilecError, match=r"--specs cannot be read: expected one entry per argument"):
        parsed(text)


def test_constants() -> None:
    assert [evaluated("x", text) for text in ("64", "(8, 8)", "True")] == [64, (8, 8), True]
    assert evaluated("x", "u4") == evaluated("x", "tc.u4") == tc.u4
    with pytest.raises(tc.TilecError, match=r"--set x=y cannot be evaluated: name 'y' is not defined"):
        evaluated("x", "y")


def test_show_says_what_is_missing(script: Any, tmp_path: Path, capsys: Output) -> None:
    path = script()
    assert "show takes FILE:KERNEL, as in matmul.py:matmul, found 'scale'" in fails(capsys, "show", "scale")
    assert f"there is no file {tmp_path}/no.py" in fails(capsys, "show", f"{tmp_path}/no.py:scale")
    said = fails(capsys, "show", f"{path}:scales", "--specs", "f32[n]")
    assert f"{path} has no kernel scales; it has scale, crowd, idle" in said
    said = fails(capsys, "show", f"{path}:idle", "--target", "sm_80")
    assert "ran to its end without calling idle: it called scale" in said
    said = fails(capsys, "show", f"{path}:scale", "--target", "sm_81")
    assert "no target 'sm_81'" in said


def test_scripts_that_call_nothing_or_fail(script: Any) -> None:
    with pytest.raises(tc.TilecError, match="without calling a kernel of its own: it called no kernel"):
        first_call(script(""))
    with pytest.raises(tc.TilecError, match=r"failed before it called scale: ZeroDivisionError"):
        first_call(script("1 / 0"), "scale")
    with pytest.raises(tc.TilecError, match=r"failed before it called scale: SystemExit\(3\)"):
        first_call(script("raise SystemExit(3)"), "scale")


# check


def test_check_finds_nothing(script: Any, capsys: Output) -> None:
    assert main(["check", str(script())]) == 0
    assert capsys.readouterr().out.endswith("checked 1 launch on emulator:sm_80: no findings\n")


def test_check_finds_a_race_at_its_line(script: Any, capsys: Output) -> None:
    path = script(CROWDED)
    assert main(["check", str(path)]) == 1
    printed = capsys.readouterr().out
    line = 1 + path.read_text().splitlines().index("    y.store(0, x.load(i, 1))")
    assert f"{path}:{line}: crowd: global-race" in printed
    assert "after" in printed, "the script goes on"
    assert re.search(r"checked 2 launches on emulator:sm_80: [1-9]\d* findings?\n$", printed)


def test_check_tells_of_scripts_that_fail(script: Any) -> None:
    outcome = check(script("1 / 0"), "emulator:sm_80")
    assert outcome.failed and "ZeroDivisionError" in outcome.error
    outcome = check(script("scale(np.ones(3), np.ones(3), 1.0)"), "emulator:sm_80")
    assert outcome.failed and "X[i] * alpha" in outcome.error
    outcome = check(script("raise SystemExit(2)"), "emulator:sm_80")
    assert outcome.failed and "ended with 2" in outcome.error


def test_check_needs_a_launch(script: Any) -> None:
    path = script("")
    outcome = check(path, "emulator:sm_80")
    assert outcome.failed
    assert told(path, "emulator:sm_80", outcome) == (
        f"{path} launched no kernel on emulator:sm_80: there was nothing to check"
    )
    assert not Outcome(launches=1).failed


def test_check_needs_a_file_and_an_emulator(script: Any, tmp_path: Path, capsys: Output) -> None:
    assert fails(capsys, "check", f"{tmp_path}/no.py") == f"tilec: there is no file {tmp_path}/no.py\n"
    said = fails(capsys, "check", str(script()), "--target", "cpu")
    assert said == "tilec: kernels are checked on an emulated GPU, as emulator:sm_80 is, found 'cpu'\n"


PTX = ROOT / "tests/backends/emulator/ptx"
VECADD = ("--kernel", "vecadd", "--grid", "4", "--block", "256", "--args")


def test_check_ptx_finds_nothing(capsys: Output) -> None:
    words = ("f32[1000] f32[1000]", "f32[1000]=0", "s32=1000")
    vecadd = ("check", "--ptx", str(PTX / "basic.ptx"), *VECADD, *words)
    assert main(vecadd) == 0
    assert capsys.readouterr().out == "checked vecadd, 4 blocks of 256 threads: no findings\n"
    assert main([*vecadd, "--metrics", "--seed", "1"]) == 0
    assert "instructions" in capsys.readouterr().out


def test_check_ptx_finds_an_access_at_its_lines(capsys: Output) -> None:
    words = "f32[1000] f32[1000] f32[999] i32=1000"
    assert main(["check", "--ptx", str(PTX / "basic.ptx"), *VECADD, words]) == 1
    printed = capsys.readouterr().out
    assert re.match(r".*basic\.cu:\d+: vecadd: out-of-bounds: .*argument 2", printed)
    number, text = re.search(r"line (\d+): (st.global.f32.*)", printed).groups()  # type: ignore[union-attr]
    assert text.split()[0] in (PTX / "basic.ptx").read_text().splitlines()[int(number) - 1]
    assert printed.endswith("checked vecadd, 4 blocks of 256 threads: 1 finding\n")


def test_check_ptx_with_tensor_maps_and_shared_memory(capsys: Output) -> None:
    words = "f16[64, 128]:box[64, 64]:128B f16[64, 128]:box[64, 64]:128B f16[64, 64]:box[64, 64] i32=128"
    options = ("--kernel", "matmul", "--block", "128", "--shared", "1024", "--args", words)
    assert main(["check", "--ptx", str(PTX / "wgmma.ptx"), *options]) == 0
    assert capsys.readouterr().out == "checked matmul, 1 block of 128 threads: no findings\n"


def test_arguments_of_foreign_kernels() -> None:
    x, y, codes, n, alpha, mapped = arguments(
        "f32[2, 3] bf16[4]=1.5 u8[5] s32=-7 f16=0.5 f16[16,64]:box[8, 64]:128B=2"
    )
    assert x.shape == (2, 3) and x.dtype == np.float32 and len(set(x.flat)) == 6
    assert y.tolist() == [0x3FC0] * 4, "bf16 as its bits"
    assert codes.dtype == np.uint8 and codes.shape == (5,)
    assert (n, n.dtype, alpha, alpha.dtype) == (-7, np.int32, 0.5, np.float16)
    assert (mapped.box, mapped.swizzle, mapped.array[0, 0]) == ((8, 64), "128B", 2)
    assert np.array_equal(arguments("f32[2, 3]")[0], x), "the same numbers each time"
    assert arguments("") == ()


@pytest.mark.parametrize("word", ["f32[]", "f32[0]", "f32[8", "f32[8]=x", "f32[8]:tma[8]", "f32[8]:box[]"])
def test_arguments_that_cannot_be_read(word: str) -> None:
    with pytest.raises(tc.TilecError, match=r"--args cannot be read: expected one entry per argument"):
        arguments(word)


def test_arguments_that_do_not_fit() -> None:
    assert arguments("i32=4294967295 u8[2]=-1")[0] == -1
    for word, message in (
        ("i32=99999999999", "i32 is too narrow for 99999999999, in 'i32=99999999999'"),
        ("u8[2]=-129", "u8 is too narrow for -129"),
        ("i32=1.5", "cannot be read"),
        ("f32[99999999999999]", r"'f32\[99999999999999\]' is no array that fits here: Unable to allocate"),
    ):
        with pytest.raises(tc.TilecError, match=f"--args.* {message}"):
            arguments(word)


def test_check_ptx_says_what_is_missing(tmp_path: Path, capsys: Output) -> None:
    assert "check takes a script, as in tilec check matmul.py, or PTX" in fails(capsys, "check")
    assert "check takes a script" in fails(capsys, "check", "a.py", "--ptx", "a.ptx")
    assert f"there is no file {tmp_path}/a.ptx" in fails(capsys, "check", "--ptx", f"{tmp_path}/a.ptx")
    said = fails(capsys, "check", "--ptx", str(PTX / "basic.ptx"))
    assert "--kernel says which of" in said and "it has vecadd, sum" in said
    said = fails(capsys, "check", "--ptx", str(PTX / "basic.ptx"), *VECADD, "f32[9] i32")
    assert "--args: a scalar takes a value, as in i32=1000, found 'i32'" in said
    said = fails(capsys, "check", "--ptx", str(PTX / "basic.ptx"), *VECADD, "f32[9]")
    assert "vecadd takes 4 arguments, 1 were given" in said


# bench and doctor


def test_bench_says_what_there_is(capsys: Output) -> None:
    assert fails(capsys, "bench", "speed") == f"tilec: no such bench: 'speed'; there is {BENCHES}\n"
    assert fails(capsys, "bench") == f"tilec: bench takes a name; there is {BENCHES}\n"


@pytest.mark.parametrize(("words", "asked"), [
    (["loops"], "table"), (["linear", "--static"], "table"), (["loops", "--emulate"], "traffic_table"),
    (["linear", "--static", "--emulate"], "traffic_table"),
])  # fmt: skip
def test_static_benches_are_one(
    words: list[str], asked: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(f"tilec.ops.loops_bench.{asked}", lambda *runs: iter([f"the {asked}"]))
    assert main(["bench", *words]) == 0
    assert capsys.readouterr().out == f"the {asked}\n"


def test_bench_compile(script: Any, capsys: Output) -> None:
    before = cache.entries()
    assert main(["bench", "compile", "--runs", "1", "--target", "sm_80", str(script())]) == 0
    head, row, foot = capsys.readouterr().out.splitlines()
    assert head.split() == ["milliseconds", "for", "sm_80", "trace", "passes", "emit", "llvm", "ptxas", "sum"]
    assert row.startswith("script.py:scale") and len(row.split()) == 7
    assert cache.entries() == before, "what is measured is not kept"
    assert foot.startswith("medians of 1,")


def test_bench_compile_is_about_gpus(script: Any, capsys: Output) -> None:
    said = fails(capsys, "bench", "compile", "--target", "cpu", str(script()))
    assert said == "tilec: bench compile measures what a GPU's code takes, for sm_90a say, found 'cpu'\n"


def test_bench_without_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    monkeypatch.setattr("tilec.bench.EXAMPLES", tmp_path)
    assert "there is no folder examples/ beside this tilec" in fails(capsys, "bench", "compile")


def test_bench_emulator(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    small = bench_emulator.cases(n=64, length=1000)
    monkeypatch.setattr(bench_emulator, "cases", lambda: small)
    assert main(["bench", "emulator", "--runs", "1"]) == 0
    head, *rows, foot, warm = capsys.readouterr().out.splitlines()
    assert re.sub(r"  +", "|", head) == "seconds on the emulator|all checks|bare|M instr.|M/s bare"
    assert [row.split(":")[0].split(" of ")[0] for row in rows] == ["f16 matmul 64^3"] * 2 + ["vector add"]
    for row in rows:
        assert re.fullmatch(r"(\s+\d+\.\d\d){2}\s+\d+\.\d\s+\d+", row[44:])
    assert foot.startswith("best of 1, after one run")
    assert re.fullmatch(r"warm-up \d+\.\d\d s, from the cache on disk \d+\.\d\d s; \d+\.\d\d GB .*", warm)


def test_bench_emulator_is_for_checkouts(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(bench_emulator, "STORED", ROOT / "no")
    assert "bench emulator needs the PTX stored in" in fails(capsys, "bench", "emulator")


def test_doctor(capsys: Output) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "\nok numpy " in printed and '\nok run: cpu        kernels run on "cpu"' in printed
    assert printed.endswith("tilec works here.\n")


def test_doctor_names_what_fails(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def broken() -> str:
        raise OSError("no such library\nand more")

    assert str(tried("run: cpu", broken)) == "NO run: cpu        no such library"
    assert str(tried("assemble", broken)) == "-- assemble        no such library"
    monkeypatch.setattr("tilec.doctor.ATTEMPTS", {"run: cpu": broken})
    assert main(["doctor"]) == 1
    assert "tilec does not work here: see the lines marked NO." in capsys.readouterr().out
