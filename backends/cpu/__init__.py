"""The CPU backend: native code over vectors and threads.

kernel = cpu.compile(func)
kernel.launch([a, b, c], cpu.grid(func, [a, b, c]))
"""

if __name__ != "tilec.backends.cpu":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.cpu: import that")

from tilec.backends.cpu.arguments import grid as grid
from tilec.backends.cpu.kernel import CpuKernel as CpuKernel
from tilec.backends.cpu.kernel import compile as compile  # noqa: A004
from tilec.backends.cpu.kernel import restore as restore
