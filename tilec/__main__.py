"""The command line: `tilec`, or `python -m tilec`.

tilec demo                                      digits read with weights of 8 bits to 1
tilec show matmul.py:matmul --stage ptx         a kernel's text at any stage
tilec check matmul.py                           a script's kernels on the emulator
tilec check --ptx add.ptx --args "f32[9] i32=9" PTX of any compiler on the emulator
tilec bench compile                             what a compile costs
tilec bench call                                what a call costs
tilec bench emulator                            how fast the emulator is
tilec bench loops [--emulate]                   machine instructions of products' loops, and their traffic
tilec bench linear --static                     the same
tilec bench plan                                the cost model beside published times
tilec bench linear                              layers with quantised weights on this CPU, beside peers
tilec bench neighborhood                        neighborhood attention on this CPU, beside its peers
tilec bench depthwise                           depthwise convolution, likewise
tilec bench fftconv                             long convolutions by transforms, likewise
tilec cache                                     what is kept on disk, where, how much; clear, prune
tilec docs docs/reference                       writes the reference pages
tilec doctor                                    what is installed, what works
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import tilec as tc
from tilec.ir.errors import TilecError

SPECS = '"f16[m, k:8] f16[k:8, 4096] f16[m, 4096] f32"'
ARGS = (
    "one entry per argument: f32[100, 64] is an array of random numbers, f32[100, 64]=0 one of zeros, "
    "i32=1000 a scalar, f16[512, 512]:box[64, 64]:128B a tensor map with its box and swizzle"
)
BENCHES = ("compile", "call", "emulator", "loops", "plan", "linear", "neighborhood", "depthwise", "fftconv")


def demo(options: Namespace) -> int:
    """Runs the demo, which lives a floor above: it calls the ops."""
    import_module("tilec.ops.demo").main()
    return 0


def show(options: Namespace) -> int:
    """Prints a kernel's text at one stage."""
    from tilec.show import show

    print(show(options.kernel, options.stage, options.target, options.specs, dict(options.set)))
    return 0


def check(options: Namespace) -> int:
    """Runs a script, or a kernel of a PTX file, on the emulator; 1 where something is wrong with it."""
    from tilec.checking import check, told

    if (options.file is None) == (options.ptx is None):
        raise TilecError("check takes a script, as in tilec check matmul.py, or PTX, as in --ptx matmul.ptx")
    if options.ptx:
        return check_ptx(options)
    outcome = check(options.file, options.target)
    print(told(options.file, options.target, outcome))
    return 1 if outcome.failed else 0


def check_ptx(options: Namespace) -> int:
    """Launches a kernel of a PTX file once, with all checks."""
    from tilec import foreign

    run = foreign.Run(
        options.ptx, options.kernel, options.grid, options.block, " ".join(options.args), options.shared,
        options.cluster, options.seed,
    )  # fmt: skip
    kernel, report = foreign.check_ptx(run)
    print(foreign.told(run, kernel, report))
    if options.metrics:
        print(f"\n{report.metrics.table()}")
    return 1 if report.errors else 0


def bench(options: Namespace) -> int:
    """Measures something, and prints a table."""
    if options.name not in BENCHES:
        found = f"no such bench: {options.name!r}" if options.name else "bench takes a name"
        raise TilecError(f"{found}; there is {', '.join(BENCHES)}")
    for line in _table(options):
        print(line, flush=True)
    return 0


def _table(options: Namespace) -> Iterator[str]:
    if options.name == "emulator":
        from tilec.bench_emulator import speeds

        return speeds(options.runs)
    if options.name == "loops" or options.static:
        loops = import_module("tilec.ops.loops_bench")
        found: Iterator[str] = loops.traffic_table() if options.emulate else loops.table(options.runs)
        return found
    if options.name != "compile":  # about operators, which live a floor above
        lines: Iterator[str] = import_module(f"tilec.ops.{options.name}_bench").table(options.runs)
        return lines
    from tilec.bench import compile_times

    return compile_times(options.files, options.target, options.runs)


def cache(options: Namespace) -> int:
    """Says what compiling has left on disk, and removes it where it is asked to."""
    from tilec.backends import cache as kept

    if options.what == "clear":
        print(f"{kept.clear()} entries removed from {kept.directory()}")
    elif options.what == "prune":
        gone = kept.prune(None if options.to is None else options.to << 20)
        print(f"{gone} entries removed, the least recently used ones, from {kept.directory()}")
    else:
        size, most = kept.size() / 2**20, kept.limit() >> 20
        print(f"{len(kept.entries())} entries, {size:.1f} of at most {most} MiB, in {kept.directory()}")
        print("TILEC_CACHE_DIR chooses another folder, TILEC_CACHE_LIMIT another limit in MiB")
    return 0


def docs(options: Namespace) -> int:
    """Writes the reference pages, one for each function and class."""
    from tilec.reference import write

    print(f"{write(options.folder)} pages in {options.folder}")
    return 0


def doctor(options: Namespace) -> int:
    """Says what is there; 1 where something is missing without which nothing works."""
    from tilec.doctor import diagnosis

    good = True
    for finding in diagnosis():
        print(finding, flush=True)
        good &= finding.good or not finding.needed
    print("tilec works here." if good else "tilec does not work here: see the lines marked NO.")
    return 0 if good else 1


def parser() -> ArgumentParser:
    """All commands and what they take."""
    top = ArgumentParser(prog="tilec", description="A tile-level GPU kernel language, and its compiler.")
    top.add_argument("--version", action="version", version=f"tilec {tc.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Namespace], int], text: str) -> ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    command("demo", demo, "Reads handwritten digits with weights of 8 bits to 1, then shows a kernel's PTX.")
    _show_options(command("show", show, "Prints the text of a kernel at one stage of its compilation."))
    _check_options(command("check", check, "Runs a script's kernels on the emulator; prints what is wrong."))
    _bench_options(command("bench", bench, "Measures something, and prints a table."))
    _cache_options(command("cache", cache, "Says what is kept on disk; removes it."))
    pages = command("docs", docs, "Writes the reference pages, made of the docstrings, into a folder.")
    pages.add_argument("folder", metavar="FOLDER", type=Path)
    command("doctor", doctor, "Says what is installed, and what works as a consequence.")
    return top


def _show_options(made: ArgumentParser) -> None:
    made.add_argument("kernel", metavar="FILE:KERNEL", help="a kernel in a file: matmul.py:matmul")
    made.add_argument("--stage", choices=("ir", "llvm", "ptx", "sass", "asm"), default="ptx")
    made.add_argument("--target", default="sm_90a", help="sm_80, sm_90a, cpu, ... (%(default)s)")
    made.add_argument(
        "--specs",
        help=f"what to compile for, one entry per argument: {SPECS}; without it FILE is run, and "
        "the kernel is compiled for what it is first called with",
    )
    made.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE",
        help="a constant of the kernel: --set bm=64 --set warps=8",
    )  # fmt: skip


def _check_options(made: ArgumentParser) -> None:
    made.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="a script that calls kernels with numpy arrays"
    )
    made.add_argument("--target", default="emulator:sm_80", help="the emulated GPU (%(default)s)")
    ptx = made.add_argument_group("PTX of any compiler, instead of a script")
    ptx.add_argument("--ptx", metavar="FILE", type=Path, help="the PTX text")
    ptx.add_argument("--kernel", metavar="NAME", help="which kernel, where the file has several")
    ptx.add_argument("--grid", type=_sizes, default=(1,), metavar="N[,N[,N]]", help="blocks (1)")
    ptx.add_argument("--block", type=_sizes, default=(32,), metavar="N[,N[,N]]", help="threads (32)")
    ptx.add_argument("--cluster", type=_sizes, default=(1,), metavar="N[,N[,N]]", help="blocks (1)")
    ptx.add_argument("--shared", type=_count, default=0, metavar="BYTES", help="dynamic shared memory (0)")
    ptx.add_argument("--args", nargs="+", default=[], metavar="ARG", help=ARGS)
    ptx.add_argument("--seed", type=_count, help="runs a random legal schedule")
    ptx.add_argument("--metrics", action="store_true", help="prints counts of instructions, bytes, conflicts")


def _bench_options(made: ArgumentParser) -> None:
    made.add_argument("name", metavar="NAME", nargs="?", help=f"what to measure: {', '.join(BENCHES)}")
    made.add_argument("files", metavar="FILE", nargs="*", type=Path, help="scripts (all of examples/)")
    made.add_argument("--target", default="sm_90a", help="(%(default)s)")
    made.add_argument("--runs", type=_positive, default=5, help="how often to measure (%(default)s)")
    made.add_argument("--static", action="store_true", help="of linear: the loops' instructions, for GPUs")
    made.add_argument("--emulate", action="store_true", help="of loops: banks and sectors, on the emulator")


def _cache_options(made: ArgumentParser) -> None:
    made.add_argument(
        "what", metavar="WHAT", nargs="?", choices=("show", "clear", "prune"), default="show",
        help="show (the default), clear: remove all, prune: remove the least recently used",
    )  # fmt: skip
    made.add_argument("--to", type=_positive, metavar="MIB", help="what prune leaves at most (the limit)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a number of 1 or more, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a number of 0 or more, found {text!r}")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if len(words) > 3 or not all(word.isdecimal() and int(word) for word in words):
        raise ArgumentTypeError(f"expected one to three numbers of 1 or more, as in 8 or 8,4, found {text!r}")
    return tuple(map(int, words))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier() or not value:
        raise ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def parsed(arguments: Sequence[str] | None) -> Namespace:
    """The command and its options; files may also stand after options, where argparse leaves them over."""
    top = parser()
    options, left = top.parse_known_args(arguments)
    if left and (not hasattr(options, "files") or any(word.startswith("-") for word in left)):
        top.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.files += map(Path, left)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status. A TilecError, or what is wrong with a file, is printed and gives 1."""
    options = parsed(arguments)
    run: Callable[[Namespace], int] = options.run
    try:
        return run(options)
    except TilecError as error:
        print(f"tilec: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # what we print to has read enough: tilec show ... | head
        sys.stderr.close()
        return 1
    except OSError as error:  # a file or folder that cannot be read or written
        print(f"tilec: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
