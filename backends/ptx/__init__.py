"""The PTX backend: one thread's LLVM IR, assembled and launched."""

if __name__ != "tilec.backends.ptx":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.ptx: import that")

from tilec.backends.ptx.kernel import PtxKernel as PtxKernel
from tilec.backends.ptx.kernel import compile as compile  # noqa: A004 - the word that users know
from tilec.backends.ptx.kernel import restore as restore
