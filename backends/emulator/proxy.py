"""fence in all its forms, and setmaxnreg: nothing changes a value, but the proxy fence counts for the
checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, Form, Step, constant
from tilec.backends.emulator.memory import FENCE
from tilec.backends.emulator.program import Immediate

PROXIES = ("async", "async::generic", "async.global", "tensormap::generic", "alias", "async::global")


def fence(f: Form) -> Step:
    proxy = bool(f.take("proxy"))
    kind = f.take(*PROXIES)
    while f.take(*FENCE, "global", "shared::cta", "shared::cluster", "shared") is not None:
        pass
    if proxy and kind == "async":
        return Step(lambda m, s: m.race.fence_proxy(m, s))
    return Step(lambda m, s: None)


def setmaxnreg(f: Form) -> Step:
    """Moves registers between warpgroups; a multiple of 8 from 24 to 256."""
    f.need("inc", "dec")
    f.need("sync")
    f.need("aligned")
    f.type("u32")
    count = f.operand(0)
    if not isinstance(count, Immediate) or count.value % 8 or not 24 <= count.value <= 256:
        f.error("setmaxnreg takes a multiple of 8 from 24 to 256")
    return Step(lambda m, s: None, COLLECTIVE, members=constant(np.uint32(0xFFFFFFFF)))


BUILDERS: dict[str, Callable[[Form], Step]] = {"fence": fence, "setmaxnreg": setmaxnreg}
