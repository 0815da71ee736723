"""Instructions, by what they are about. Importing this module makes all of them known."""

if __name__ != "tilec.ir.inst":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir.inst: import that")

from tilec.ir.func import Inst, Item, mnemonic
from tilec.ir.inst import arith, bulk, control, inline, memory, mma, reduce, shape, sparse, sync, turn

ROOMS = (arith, bulk, control, inline, memory, mma, reduce, shape, sparse, sync, turn)


def _instructions() -> dict[str, type[Inst]]:
    found: dict[str, type[Inst]] = {"item": Item}
    for room in ROOMS:
        for kind in vars(room).values():
            if isinstance(kind, type) and issubclass(kind, Inst) and "result" in _rules(kind):
                assert found.setdefault(mnemonic(kind), kind) is kind, (
                    f"two instructions named {mnemonic(kind)}"
                )
    return found


def _rules(kind: type[Inst]) -> set[str]:
    """What a concrete instruction has: a type rule of its own or of a parent below Inst, and no leading
    underscore.
    """
    if kind.__name__.startswith("_") or kind is Inst or kind.__subclasses__():
        return set()
    return {name for parent in kind.__mro__ if parent not in (Inst, object) for name in vars(parent)}


INSTRUCTIONS: dict[str, type[Inst]] = _instructions()
