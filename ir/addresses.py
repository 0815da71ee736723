"""Where an array's first element lies, in a tenth of the time that numpy takes to say so.

    address(x) == x.__array_interface__["data"][0]
An array object begins with the interpreter's own words, then the pointer to its elements (numpy's C interface
fixes that). It is read anew each time: resizing an array moves it. Where a probe finds anything else at that
place, numpy is asked instead.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
REMEMBERED = 4096
_words: dict[int, ctypes.c_size_t] = {}  # by the address of an array object, whoever it is now


def asked(x: Array) -> int:
    """What numpy says."""
    return int(x.__array_interface__["data"][0])


def read(x: Array) -> int:
    """What stands in the array object itself."""
    found = _words.get(id(x))
    return _word(x) if found is None else found.value


def _word(x: Array) -> int:
    if len(_words) >= REMEMBERED:
        _words.clear()
    word = _words[id(x)] = ctypes.c_size_t.from_address(id(x) + object.__basicsize__)
    return word.value


def _probed() -> bool:
    """Whether arrays and views of them have their pointer there."""
    if sys.implementation.name != "cpython":  # elsewhere id() is no address
        return False
    whole = np.zeros(64, np.uint8)
    return all(read(x) == asked(x) for x in (whole, whole[5:], whole[::-1], whole.reshape(8, 8)[:, 3]))


address: Callable[[Array], int] = read if _probed() else asked
