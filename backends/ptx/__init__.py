"""The PTX backend: one thread's LLVM IR, assembled and launched."""

from tilec.backends.ptx.compiled import PtxKernel as PtxKernel
from tilec.backends.ptx.compiled import restore as restore
from tilec.ir.func import Func
from tilec.ir.target import Target

if __name__ != "tilec.backends.ptx":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.ptx: import that")


def compile(func: Func, target: Target) -> PtxKernel:  # noqa: A001 - the word that users know
    """PTX for a GPU; needs no GPU, driver or assembler. The compiler is loaded now."""
    from tilec.backends.ptx import kernel

    return kernel.compile(func, target)
