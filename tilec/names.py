"""Everything that users see as tc.something, but for dtypes: tc.kernel, tc.Array, tc.dot.

It is loaded with the first of them: `import tilec` alone, or one of its rooms, takes no time.
"""

from __future__ import annotations

from typing import Any

from tilec.arrays import Array as Array
from tilec.compiled import Compiled as Compiled
from tilec.device import DeviceArray as DeviceArray
from tilec.device import to_device as to_device
from tilec.functions import abs as abs  # noqa: A004
from tilec.functions import ceil as ceil
from tilec.functions import cos as cos
from tilec.functions import erf as erf
from tilec.functions import exp as exp
from tilec.functions import exp2 as exp2
from tilec.functions import floor as floor
from tilec.functions import fma as fma
from tilec.functions import log as log
from tilec.functions import log2 as log2
from tilec.functions import maximum as maximum
from tilec.functions import minimum as minimum
from tilec.functions import round as round  # noqa: A004
from tilec.functions import rsqrt as rsqrt
from tilec.functions import sigmoid as sigmoid
from tilec.functions import sin as sin
from tilec.functions import sqrt as sqrt
from tilec.functions import tanh as tanh
from tilec.functions import where as where
from tilec.ir import debug as _debug
from tilec.ir import layouts as layouts
from tilec.ir.dtype import dtype as dtype
from tilec.ir.errors import TilecError as TilecError
from tilec.ir.layout import Layout as Layout
from tilec.ir.layout import local as local
from tilec.ir.layout import spatial as spatial
from tilec.ir.packing import pack as _pack
from tilec.ir.packing import packed as packed
from tilec.ir.packing import unpack as _unpack
from tilec.kept import sparse as sparse
from tilec.kernels import Kernel as Kernel
from tilec.kernels import kernel as kernel
from tilec.lang import annotate as annotate
from tilec.lang import arange as arange
from tilec.lang import assert_ as assert_
from tilec.lang import block_ticket as block_ticket
from tilec.lang import blocks as blocks
from tilec.lang import breakpoint as breakpoint  # noqa: A004
from tilec.lang import cdiv as cdiv
from tilec.lang import convert as convert
from tilec.lang import dot as dot
from tilec.lang import from_function as from_function
from tilec.lang import full as full
from tilec.lang import inline_ptx as inline_ptx
from tilec.lang import ones as ones
from tilec.lang import print as print  # noqa: A004
from tilec.lang import range as range  # noqa: A004
from tilec.lang import require as require
from tilec.lang import scan as scan
from tilec.lang import shared as shared
from tilec.lang import stack as stack
from tilec.lang import static as static
from tilec.lang import static_range as static_range
from tilec.lang import turn as turn
from tilec.lang import view as view
from tilec.lang import zeros as zeros
from tilec.places import target as target
from tilec.saved import load as load
from tilec.specialise import Spec as Spec
from tilec.specialise import dim as dim
from tilec.tiles import Tiles as Tiles
from tilec.values import Tile as Tile

debug = _debug.at


def pack(codes: Any, dtype: Any) -> Any:
    """Elements of any shape as packed bytes: element i has bits [i * n, (i + 1) * n), little-endian."""
    return _pack(codes, _dtype(dtype))


def unpack(data: Any, dtype: Any, count: int) -> Any:
    """The first `count` elements of packed bytes: values of integer types, codes of float types."""
    return _unpack(data, _dtype(dtype), count)


_dtype = dtype
