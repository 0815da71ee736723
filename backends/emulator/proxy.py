"""fence in all its forms: nothing changes a value, but the proxy fence counts for the checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilec.backends.emulator.decode import Form, Step
from tilec.backends.emulator.memory import FENCE
from tilec.backends.emulator.ptx_types import Sel

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

PROXIES = ("async", "async::generic", "async.global", "tensormap::generic", "alias", "async::global")


def fence(f: Form) -> Step:
    proxy = bool(f.take("proxy"))
    kind = f.take(*PROXIES)
    wide = f.i.root == "membar" and not {"cta", "level"} & set(f.left)
    wide |= bool({"gpu", "sys", "cluster"} & set(f.left)) and not proxy
    while f.take(*FENCE, "global", "shared::cta", "shared::cluster", "shared") is not None:
        pass
    if proxy and kind == "async":
        return Step(lambda m, s: m.race.fence_proxy(m, s))
    if wide and kind is None:
        f.context.features.add("handshake")
        return Step(between_blocks)
    return Step(lambda m, s: None)


def between_blocks(m: Machine, s: Sel) -> None:
    m.race.fence(s)
    race = m.launch.global_race
    if race is not None and race.handshakes is not None:
        race.handshakes.fence(m, s)


BUILDERS: dict[str, Callable[[Form], Step]] = {"fence": fence, "membar": fence}
