"""The emulator's own test: break one synchronisation, stage, swizzle, mask or count of a good kernel at a
time.

Every mutant is flagged by a check, or computes wrong numbers, or stands in EQUIVALENT with the reason why
it may not.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.backends.emulator.mutate import Mutant, deletions, substitutions
from tilec.backends import emulator

FOLDER = Path(__file__).parent / "ptx"
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


def near(found, expected):
    return bool(np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected))


def softmax(module):
    x = RNG.standard_normal((5, 300)).astype(np.float32)
    y = np.full_like(x, np.nan)
    report = module.launch("softmax", 5, 128, (x, y, np.int32(300)))
    e = np.exp(x - x.max(1, keepdims=True))
    return report, np.allclose(y, e / e.sum(1, keepdims=True), rtol=1e-4)


def total(module):
    x = RNG.standard_normal(5000).astype(np.float32)
    out = np.zeros(1, np.float32)
    report = module.launch("sum", 4, 256, (x, out, np.int32(5000)))
    return report, abs(out[0] - x.sum()) < 1e-2


def transpose(module):
    x = np.arange(4096, dtype=np.float32).reshape(64, 64)
    y = np.zeros_like(x)
    report = module.launch("transpose_naive", (2, 2), (32, 8), (x, y, np.int32(64)))
    return report, np.array_equal(y, x.T)


def vecadd(module):
    x, y, z = RNG.standard_normal((3, 256)).astype(np.float32)
    report = module.launch("vecadd", 2, 256, (x, y, z, np.int32(256)))
    return report, np.array_equal(z, x + y)


def hgemm(module, k=256):
    a, b, c = normal(64, k), normal(k, 64), np.full((64, 64), np.nan, np.float16)
    report = module.launch("hgemm", 1, 128, (a, b, c, np.int32(64), np.int32(64), np.int32(k)))
    return report, near(c, a.astype(np.float64) @ b)


def hopper(kernel, steps):
    def run(module):
        k = 64 * steps
        a, b, c = normal(64, k), normal(64, k), np.full((64, 64), np.nan, np.float16)
        maps = [emulator.TensorMap(x, (64, 64), swizzle="128B") for x in (a, b)]
        if kernel == "matmul":
            args, block = (*maps, emulator.TensorMap(c, (64, 64)), np.int32(k)), 128
        else:
            args, block = (*maps, c, np.int32(64), np.int32(k)), 256
        return module.launch(kernel, 1, block, args), near(c, a.astype(np.float64) @ b.T.astype(np.float64))

    return run


# kernel -> (file, runs that together execute every line)
CASES = {
    "softmax": ("basic", [softmax]), "sum": ("basic", [total]), "transpose_naive": ("basic", [transpose]),
    "hgemm": ("hgemm", [hgemm]), "matmul": ("wgmma", [hopper("matmul", 8), hopper("matmul", 7)]),
    "specialised": ("wgmma", [hopper("specialised", 8), hopper("specialised", 9)]),
}  # fmt: skip

SAME_SHAPE = (
    "accumulates onto the same registers in the same shape as the wgmma before it: the ISA asks for no fence"
)
EQUIVALENT = {
    ("matmul", "wgmma.fence", 1): SAME_SHAPE,
    ("matmul", "wgmma.fence", 2): SAME_SHAPE,
    ("specialised", "wgmma.fence", 1): SAME_SHAPE,
    ("specialised", "wgmma.fence", 2): SAME_SHAPE,
    (
        "matmul",
        "bar.sync",
        3,
    ): "of the last step: no load follows that could overwrite what others still read",
    ("matmul", "mbarrier.arrive.expect_tx", 4): "never runs: the last odd step has no load after it",
    (
        "specialised",
        "mbarrier.arrive.shared",
        2,
    ): "of the last odd step: no load waits for that stage any more",
    ("specialised", "bar.sync 1", 0): "nothing in shared memory is used after it",
}


def text_of(file):
    return (FOLDER / f"{file}.ptx").read_text()


def survives(mutant: Mutant, runs) -> bool:
    module = emulator.load(mutant.text)
    for run in runs:
        report, right = run(module)
        if report.errors or not right or not report.completed:
            return False
    return True


@pytest.mark.parametrize("kernel", CASES)
def test_the_kernels_are_good_and_wholly_executed(kernel):
    file, runs = CASES[kernel]
    never = None
    for run in runs:
        report, right = run(emulator.load(text_of(file)))
        assert right and not report.findings, report.describe()
        lines = {line for line, _ in report.unexecuted}
        never = lines if never is None else never & lines
    assert not never & {m.line for m in deletions(text_of(file), kernel)} - places(kernel)


@pytest.mark.parametrize("kernel", CASES)
def test_deleted_synchronisation(kernel, full):
    """All of them in make check-all, else every third."""
    file, runs = CASES[kernel]
    mutants = deletions(text_of(file), kernel)[:: 1 if full else 3]
    assert mutants
    survivors = {m.line: m.what for m in mutants if survives(m, runs)}
    assert survivors.keys() == places(kernel) & {m.line for m in mutants}, survivors


STAGE = (r"mad\.lo\.s32 (\s*%r\d+), %r\d+, (5120|4608),", r"mad.lo.s32 \1, 0, \2,")
SWIZZLE = (r"4611686293305360384", str((2 << 62 | 4611686293305360384 & ~(3 << 62)) - (1 << 64)))
COUNT = (r"mov\.u32 (\s*%r\d+), 16384;", r"mov.u32 \1, 8192;")
MASK = (r"setp\.ge\.s32", "setp.gt.s32")


@pytest.mark.parametrize(
    ("kernel", "file", "runs", "change"),
    [("hgemm", "hgemm", [hgemm], STAGE), ("matmul", "wgmma", [hopper("matmul", 7)], SWIZZLE),
     ("matmul", "wgmma", CASES["matmul"][1], COUNT), ("specialised", "wgmma", CASES["specialised"][1], COUNT),
     ("vecadd", "basic", [vecadd], MASK)],
    ids=["stage", "swizzle", "count", "count-specialised", "mask"],
)  # fmt: skip
def test_changed_detail(kernel, file, runs, change, full):
    mutants = substitutions(text_of(file), *change, kernel)[:: 1 if full else 4]
    assert mutants
    unused = set.intersection(*(never(file, run) for run in runs))
    executed = [m for m in mutants if m.line not in unused]
    assert executed and not [(m.line, m.what) for m in executed if survives(m, runs)]


def never(file, run):
    return {line for line, _ in run(emulator.load(text_of(file)))[0].unexecuted}


def places(kernel):
    """The lines that EQUIVALENT excuses."""
    mutants = deletions(text_of(CASES[kernel][0]), kernel)
    return {
        [m for m in mutants if m.what.startswith(what)][n].line for k, what, n in EQUIVALENT if k == kernel
    }


def test_a_mask_that_is_off_by_one_reads_outside():
    def run(module):
        x, y, z = RNG.standard_normal((3, 255)).astype(np.float32)
        return module.launch("vecadd", 2, 256, (x, y, z, np.int32(255)))

    (mutant,) = substitutions(text_of("basic"), *MASK, "vecadd")
    assert {f.kind for f in run(emulator.load(mutant.text)).findings} == {"out-of-bounds"}


@pytest.mark.parametrize("kernel", CASES)
def test_the_compiled_check_says_the_same(kernel, monkeypatch, full):
    """Good kernels and mutants under the compiled race check and under numpy's: the same findings."""
    from tilec.backends.emulator import race

    file, runs = CASES[kernel]
    mutants = deletions(text_of(file), kernel)[:: 1 if full else 4]
    for text in [text_of(file), *(m.text for m in mutants)]:
        module, found = emulator.load(text), []
        for enough in (0, 1 << 60):
            monkeypatch.setattr(race, "ENOUGH", enough)
            report, _ = runs[0](module)
            found.append({(f.kind, f.line, f.other, f.warning) for f in report.findings})
        assert found[0] == found[1]
