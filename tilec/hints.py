"""What people who know Triton, numpy or torch write, and what it is called here.

no_attribute(tc, "program_id")      "module tilec has no program_id: tc.blocks(count) sets the grid ..."
no_attribute(tile, "exp")           "Tile has no exp: write tc.exp(tile)"
called(numpy.exp, [tile], {})       "numpy.exp takes numbers, not tiles: write tc.exp(...)"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import FunctionType, ModuleType
from typing import Any

from tilec import functions, lang
from tilec.arrays import Array
from tilec.ir.errors import TilecError
from tilec.values import Tile

Message = str
BLOCKS = "tc.blocks(count) sets the grid and gives this block's number, i, j = tc.blocks(rows, columns)"
READ = "arrays are read with x.load(offsets, shape), or by tiles, X = x.tiles(shape) and X[i]"
WRITTEN = "arrays are written with x.store(offsets, tile), or by tiles, X = x.tiles(shape) and X[i] = tile"
BROADCAST = "extents of 1 broadcast by themselves, as in x[:, None]"
BOUNDS = "arrays know their bounds: what lies outside reads as other=, and is not written"
RANDOM = "there is no random generator: hash the element's place with integer arithmetic"
CACHING = "how accesses are cached is the compiler's choice: leave it out"

LANGUAGE = {  # names of Triton's that are no function here
    "program_id": BLOCKS, "num_programs": "the extents that the kernel gives tc.blocks are the grid",
    "load": READ, "make_block_ptr": READ, "make_tensor_descriptor": READ,
    "store": WRITTEN, "constexpr": "a constant is a parameter after the *",
    "jit": "mark kernels with @tc.kernel, and leave functions that kernels call as they are",
    "autotune": "call the kernel with constants of your choice",
    "static_assert": "write assert, which checks constants", "static_print": "write Python's print",
    "device_assert": "write tc.assert_", "device_print": "write tc.print", "debug_barrier": "leave it out",
    "multiple_of": "write tc.require(n % 8 == 0)", "max_contiguous": "leave it out",
    "expand_dims": "write x[:, None]", "broadcast_to": BROADCAST, "broadcast": BROADCAST,
    "trans": "write x.T", "cast": "write x.to(dtype)", "join": "write tc.stack",
    "cumsum": 'write tc.scan(x, "sum", axis)', "cat": "write tc.stack, and reshape",
    "clamp": "write tc.minimum(tc.maximum(x, low), high)",
    "softmax": "write e = tc.exp(x - x.max(1)[:, None]), and e / e.sum(1)[:, None]",
    "rand": RANDOM, "randn": RANDOM, "randint": RANDOM, "philox": RANDOM,
    "pow": "write tc.exp2(y * tc.log2(x))", "float16": "write tc.f16", "bfloat16": "write tc.bf16",
    "float32": "write tc.f32", "float64": "write tc.f64",
    "math": "tc.exp, tc.sqrt and the others are functions of tc itself",
}  # fmt: skip
HELD = {  # what tiles and arrays are asked for
    "astype": "did you mean to?", "transpose": "did you mean permute?", "view": "did you mean reshape?",
    "size": "did you mean shape?", "ndim": "did you mean rank?", "dot": "write a @ b, or tc.dot(a, b, acc)",
    "mean": "write x.sum(axis) / n", "cumsum": 'write tc.scan(x, "sum", axis)',
    "atomic_add": "that is a method of arrays, x.atomic_add(places, tile)",
}  # fmt: skip
OF_ARRAYS = {
    "T": "pass the transposed view, x.T, or read a tile and write tile.T",
    "strides": "strides are the compiler's business: a kernel needs offsets alone",
    "astype": "read a tile first, and write tile.to(dtype)",
    "to": "read a tile first, and write tile.to(dtype)",
}
WORDS = {  # keywords of Triton's functions
    "mask": BOUNDS, "boundary_check": BOUNDS, "padding_option": BOUNDS, "cache_modifier": CACHING,
    "eviction_policy": CACHING, "volatile": CACHING, "keep_dims": "write keepdims=True",
    "num_stages": "write stages=", "allow_tf32": "write a.to(tc.tf32)", "out_dtype": "give it an accumulator",
    "input_precision": "write a.to(tc.tf32)", "dim": "write axis=",
}  # fmt: skip
REDUCTIONS = ("sum", "max", "min", "any", "all", "argmax", "argmin")


def no_attribute(value: Any, wanted: str) -> Message:
    """What to say where `value.wanted` is asked for and is not there."""
    kind = f"module {value.__name__}" if hasattr(value, "__name__") else type(value).__name__
    instead = _instead(value, wanted)
    if instead is None:
        known = [each for each in dir(value) if not each.startswith("_")]
        close = get_close_matches(wanted, known, 1)
        instead = f"did you mean {close[0]}?" if close else None
    if instead is None:
        return f"{kind} has no {wanted}"
    return f"{kind} has no {wanted}{'; ' if instead.startswith('did') else ': '}{instead}"


def _instead(value: Any, wanted: str) -> Message | None:
    if isinstance(value, ModuleType) and value.__name__ == "tilec":
        return LANGUAGE.get(wanted) or _method(wanted)
    if isinstance(value, Array) and wanted in OF_ARRAYS:
        return OF_ARRAYS[wanted]
    if isinstance(value, Tile | Array):
        read = "" if isinstance(value, Tile) else "read a tile first, and "
        return HELD.get(wanted) or (f"{read}write tc.{wanted}(tile)" if _on_tiles(wanted) else None)
    return None


def _method(name: str) -> Message | None:
    """tc.name, which is a method here."""
    if name in REDUCTIONS:
        two = f"; tc.{name}imum takes two tiles" if name in ("max", "min") else ""
        return f"write x.{name}(axis){two}"
    if name.startswith("_"):
        return None
    if hasattr(Tile, name):
        return f"tiles have it, x.{name}"
    return f"arrays have it, x.{name}(places, tile)" if hasattr(Array, name) else None


def _on_tiles(name: str) -> bool:
    """Whether tc.name takes a tile first."""
    made = getattr(functions, name, None) or getattr(lang, name, None)
    first = made.__code__.co_varnames[:1] if isinstance(made, FunctionType) else ()
    return first in (("x",), ("a",), ("condition",))


def called(callee: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """callee(*args, **kwargs); TilecError where it is ours and called wrongly, or takes no tiles."""
    try:
        return callee(*args, **kwargs)
    except (TypeError, TilecError) as error:
        said = _of_numbers(callee, args) or _misfit(callee, error, kwargs)
        if said is None:
            raise
        raise TilecError(said) from None


def _of_numbers(callee: Any, args: Sequence[Any]) -> Message | None:
    """numpy's and math's functions take numbers, not tiles."""
    name, made = getattr(callee, "__name__", ""), type(callee).__module__
    room = (made if made == "numpy" else str(getattr(callee, "__module__", ""))).partition(".")[0]
    if room not in ("numpy", "math") or not any(isinstance(x, Tile | Array) for x in args):
        return None
    ours = name.removeprefix("a") if name in ("amax", "amin") else name
    instead = f"write x.{ours}(axis)" if ours in REDUCTIONS else "tc has functions of its own"
    instead = f"write tc.{ours}(...)" if _on_tiles(ours) else instead
    return f"{room}.{name} takes numbers, not tiles: {instead}"


def _misfit(callee: Any, error: Exception, kwargs: dict[str, Any]) -> Message | None:
    """How a function of the language is called, where the arguments did not fit its parameters."""
    if not isinstance(callee, FunctionType) or not callee.__module__.startswith("tilec."):
        return None
    if callee.__name__ == "load" and isinstance(error, TypeError) and callee.__module__ == "tilec.saved":
        return f"tc.load reads a saved kernel from a file: {READ}"
    began = error.__traceback__ is not None and error.__traceback__.tb_next is not None
    if began or not isinstance(error, TypeError):  # the function was entered: the error is another
        return None
    signature = inspect.signature(callee)
    for word in kwargs:
        if word in WORDS and word not in signature.parameters:
            return f"{callee.__name__} takes no {word}=: {WORDS[word]}"
    return f"{error}: it takes ({_shown(signature)})"


def _shown(signature: inspect.Signature) -> str:
    """Parameters and defaults, without annotations."""
    shown = []
    for name, each in signature.parameters.items():
        if name not in ("self", "site"):
            star = "*" if each.kind is each.VAR_POSITIONAL else ""
            shown.append(f"{star}{name}" + ("" if each.default is each.empty else f"={each.default!r}"))
    return ", ".join(shown)
