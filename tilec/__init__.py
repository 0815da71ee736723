"""tilec: a tile-level GPU kernel language and its compiler.

import tilec as tc

@tc.kernel
def add(x: tc.Array, y: tc.Array, out: tc.Array, *, block=1024):
    X, Y, OUT = x.tiles((block,)), y.tiles((block,)), out.tiles((block,))
    i = tc.blocks(*OUT.shape)
    OUT[i] = X[i] + Y[i]

add(x, y, out)      # numpy arrays: on the CPU
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if __name__ != "tilec":
    raise ImportError(f"tilec imported a second time, as {__name__!r}")

_here = os.path.dirname(__file__)
if not os.path.isdir(f"{_here}/ir"):  # a checkout: the rooms lie beside this folder, not inside it
    __path__.append(os.path.dirname(_here))

if TYPE_CHECKING:
    from tilec.ir.dtype import DType
    from tilec.names import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> "DType":
    """What tilec.names has, and each dtype by its name, tc.f32 and tc.bool: all loaded with the first.

    A module of ours is itself: `from tilec import tape` asks here before it looks for a file.
    """
    if not name.startswith("__") and find_spec(f"tilec.{name}"):
        globals()[name] = import_module(f"tilec.{name}")
    elif not name.startswith("__"):
        globals().update(_public())
    if name in globals():
        found: DType = globals()[name]
        return found
    raise AttributeError(f"module 'tilec' has no attribute {name!r}{_near(name)}")


def _public() -> dict[str, Any]:
    names = vars(import_module("tilec.names"))
    dtypes = import_module("tilec.ir.dtype")
    found = {name: x for name, x in names.items() if name[0] != "_" and name not in ("annotations", "Any")}
    return found | {name: getattr(dtypes, name) for name in dtypes._OWN_NAMES}


def _near(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, __dir__(), 1)
    return f"; did you mean {close[0]}?" if close else ""


def __dir__() -> list[str]:
    return sorted({*_public(), *globals()})
