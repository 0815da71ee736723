"""The emulator: PTX text run and checked on numpy.

module = emulator.load(ptx)
report = module.launch("add", grid=8, block=128, args=(x, y, np.uint32(1000)))
report.raise_if_any()
"""

if __name__ != "tilec.backends.emulator":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.emulator: import that")

from tilec.backends.emulator.launch import Module as Module
from tilec.backends.emulator.launch import load as load
from tilec.backends.emulator.report import Finding as Finding
from tilec.backends.emulator.report import Report as Report
from tilec.backends.emulator.tensormap import TensorMap as TensorMap
