"""Which tensor maps a kernel takes after its other arguments: said in the first lines of its LLVM IR and PTX.

    // tensor map: parameter 0, axes 1 0, box 64 128 of 2 bytes, rows of 128
So launchers find it in what they have, edited by hand or read from a file.
"""

from __future__ import annotations

import re

from tilec.ir.signature import Box, Slot

HEAD = "tensor map: "


def described(maps: list[Slot]) -> list[str]:
    """The lines, as comments of LLVM IR."""
    return [
        f"; {HEAD}parameter {m.param}, axes {_list(box.axes)}, box {_list(box.extents)} of {box.unit} bytes, "
        f"rows of {box.span}"
        for m in maps
        if (box := m.box) is not None
    ]


def _list(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def headed(ptx: str, llvm: str) -> str:
    """PTX with the lines of the LLVM IR that it was made from."""
    lines = [line for line in llvm.splitlines()[:16] if line.startswith(f"; {HEAD}")]
    return "".join(f"//{line[1:]}\n" for line in lines) + ptx


def maps_of(ptx: str) -> tuple[Slot, ...]:
    """The tensor maps of a kernel, from the head of its PTX."""
    found = []
    for line in re.findall(rf"^// {HEAD}(.*)", ptx[:2048], re.MULTILINE):
        param, axes, box, unit, span = (
            [int(n) for n in part.split()] for part in re.findall(r"\d[\d ]*", line)
        )
        found.append(Slot("map", param[0], box=Box(tuple(axes), tuple(box), span[0], unit[0])))
    return tuple(found)
