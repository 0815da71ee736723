"""The reference pages in docs/reference, made of signatures and docstrings: `tilec docs docs/reference`.

pages()["dot.md"]       what the file has to say; a test compares
One page for each function and class that users see as tc.something, with the examples/ that use it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

GROUPS = {
    "Kernels": "tilec.kernels tilec.compiled tilec.saved tilec.specialise",
    "Inside a kernel": "tilec.lang tilec.kept",
    "Functions of tiles": "tilec.functions",
    "Arrays and tiles": "tilec.arrays tilec.tiles tilec.values",
    "Places and devices": "tilec.places tilec.device tilec.ir.debug",
    "Dtypes, packing and layouts": "tilec.ir.dtype tilec.ir.packing tilec.ir.layout tilec.names",
    "Errors": "tilec.ir.errors",
}
EXAMPLES = Path(__file__).parents[1] / "examples"
ANY = re.compile(r"\btc\.(\w+)")


def pages() -> dict[str, str]:
    """File names and texts."""
    shown, used = dict(_shown()), _examples()
    found = {_file(name): _page(name, x, used.get(name, [])) for name, x in shown.items()}
    return {"README.md": _index(shown), **found}


def _file(name: str) -> str:
    """kernel.md, and Kernel's beside it also where files are not told apart by their case."""
    return f"class_{name}.md" if name[0].isupper() else f"{name}.md"


def write(folder: Path) -> int:
    """Writes all pages, removes those of what is gone; gives how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)
    return len(made)


def _shown() -> Iterator[tuple[str, Any]]:
    """What users see: functions and classes with a docstring of ours."""
    names = vars(import_module("tilec.names"))
    for name, x in sorted(names.items()):
        if name[0] != "_" and callable(x) and getattr(x, "__module__", "").startswith("tilec"):
            yield name, x


def _index(shown: dict[str, Any]) -> str:
    lines = ["# Reference", "", "Made of the docstrings by `tilec docs docs/reference`.", ""]
    for title, modules in GROUPS.items():
        there = [name for name, x in shown.items() if x.__module__ in modules.split()]
        told = [f"- [tc.{name}]({_file(name)}): {_first(shown[name])}" for name in there]
        lines += [f"## {title}", "", *told, ""]
    return "\n".join(lines)


def _first(x: Any) -> str:
    """The first sentence of a docstring, or what there is of it on the first line."""
    head = " ".join(_doc(x).split("\n\n")[0].split())
    return re.split(r"(?<=[^.][.;:])\s", head)[0].rstrip(".;:")


def _doc(x: Any) -> str:
    own = x.__dict__.get("__doc__") if isinstance(x, type) else x.__doc__  # not what a base class says
    return inspect.cleandoc(own or "")


def _page(name: str, x: Any, examples: list[str]) -> str:
    lines = [f"# tc.{name}", ""]
    if isinstance(x, type):
        lines += [*_prose(_doc(x)), *_members(x)]
    else:
        lines += ["```python", f"tc.{name}{_signature(x)}", "```", "", *_prose(_doc(x))]
    if examples:
        lines += ["In " + ", ".join(f"[{each}](../../examples/{each})" for each in examples) + ".", ""]
    return "\n".join(lines)


def _members(kind: type) -> Iterator[str]:
    """Public methods and properties, those of its bases too."""
    for name, member in inspect.getmembers(kind):
        held = member.fget if isinstance(member, property) else getattr(member, "func", member)
        if name[0] == "_" or not isinstance(held, FunctionType) or not held.__module__.startswith("tilec"):
            continue
        shown = _signature(held, method=True) if held is member else ""
        yield from (f"## .{name}", "", "```python", f"{name}{shown}", "```", "", *_prose(_doc(held)))


def _signature(function: Any, method: bool = False) -> str:
    """As it is called: without self, and without what the front end passes."""
    known = inspect.signature(function)
    params = [p for p in known.parameters.values() if p.name != "site"][1 if method else 0 :]
    return str(known.replace(parameters=params)).replace("'", "")


def _prose(text: str) -> list[str]:
    """A docstring as Markdown: what is indented is Python."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        rows = block.splitlines()
        inside = [i for i, row in enumerate(rows) if row.startswith("    ")]
        if inside and len(inside) == len(rows) - inside[0]:
            lines += rows[: inside[0]] + [""] * bool(inside[0])
            lines += ["```python", *(row[4:] for row in rows[inside[0] :]), "```", ""]
        elif rows:
            lines += [*rows, ""]
    return lines


def _examples() -> dict[str, list[str]]:
    """The files of examples/ in which a name is used, three at most."""
    found: dict[str, list[str]] = {}
    for path in sorted(EXAMPLES.glob("*.py")):
        for name in set(ANY.findall(path.read_text())):
            found.setdefault(name, []).append(path.name)
    return {name: files[:3] for name, files in found.items()}
