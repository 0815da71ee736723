"""PTX to a cubin inside this process, by NVIDIA's nvJitLink through cuda-python; its assembler is ptxas's.

    cubin, log = linked(ptx, target("sm_80"))
One link is some 7 ms faster than to start ptxas, but the first has to load binding and library, 80 ms: it is
asked first where it is loaded already, and else where there is no ptxas.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from tilec.ir.target import Target

BINDING = "cuda.bindings.nvjitlink"


@cache
def version() -> str:
    """The library's, as in "13.5"; "" where it or its binding is missing."""
    try:
        return ".".join(map(str, _binding().version()))
    except Exception:  # what is missing is told in many ways: no module, no library, no function in it
        return ""


def loaded() -> bool:
    """Whether a link would start at once."""
    return BINDING in sys.modules


def linked(ptx: str, target: Target, options: tuple[str, ...] = ()) -> tuple[bytes | None, str]:
    """(cubin, log); (None, log) where it refuses."""
    binding, data = _binding(), ptx.encode()
    try:
        words = [f"-arch={target.name}", "-verbose", *options]
        handle = binding.create(len(words), words)
    except binding.nvJitLinkError as error:  # an architecture that it has not heard of
        return None, f"Value '{target.name}' is not defined for option 'gpu-name' ({error})"
    try:
        binding.add_data(handle, binding.InputType.PTX, data, len(data), "kernel.ptx")
        binding.complete(handle)
        cubin = _bytes(handle, binding.get_linked_cubin_size, binding.get_linked_cubin)
        return cubin, _text(handle, binding.get_info_log_size, binding.get_info_log)
    except binding.nvJitLinkError as error:
        said = _text(handle, binding.get_error_log_size, binding.get_error_log)
        return None, said or str(error)
    finally:
        binding.destroy(handle)


def _binding() -> Any:
    from cuda.bindings import nvjitlink

    return nvjitlink


def _bytes(handle: int, size: Any, get: Any) -> bytes:
    room = bytearray(size(handle))
    get(handle, room)
    return bytes(room)


def _text(handle: int, size: Any, get: Any) -> str:
    return _bytes(handle, size, get).rstrip(b"\0").decode(errors="replace") if size(handle) else ""
