"""The reference pages in docs/reference, made of signatures and docstrings: `tilec docs docs/reference`.

pages()["dot.md"]       what the file has to say; a test compares
One page for each function and class that users see as tc.something or ops.something, with the examples/
that use it.
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
    "Operators": "tilec.ops",
}
ROOMS = {"tc": "tilec.names", "ops": "tilec.ops"}  # what users write, and who has it
EXAMPLES = Path(__file__).parents[1] / "examples"
ANY = re.compile(r"\b(?:tc|ops)\.\w+")


def pages() -> dict[str, str]:
    """File names and texts."""
    shown, used = dict(_shown()), _examples()
    found = {_file(name): _page(name, x, used.get(name, [])) for name, x in shown.items()}
    return {"README.md": _index(shown), **found}


def _file(name: str) -> str:
    """kernel.md of tc.kernel, and tc.Kernel's beside it also where files are not told apart by case."""
    room, last = name.split(".")
    kind = "class_" if last[0].isupper() else ""
    return f"{kind}{last}.md" if room == "tc" else f"{kind}{room}_{last}.md"


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
    """What users see: functions, operators and classes with a docstring of ours."""
    for room, module in ROOMS.items():
        for name, x in sorted(vars(import_module(module)).items()):
            if name[0] != "_" and callable(x) and getattr(x, "__module__", "").startswith("tilec"):
                yield f"{room}.{name}", x


def _index(shown: dict[str, Any]) -> str:
    lines = ["# Reference", "", "Made of the docstrings by `tilec docs docs/reference`.", ""]
    for title, modules in GROUPS.items():
        there = [name for name, x in shown.items() if _module(x) in modules.split()]
        told = [f"- [{name}]({_file(name)}): {_first(shown[name])}" for name in there]
        lines += [f"## {title}", "", *told, ""]
    return "\n".join(lines)


def _module(x: Any) -> str:
    """Where it is defined; operators all belong together."""
    found: str = x.__module__
    return "tilec.ops" if found.startswith("tilec.ops.") else found


def _first(x: Any) -> str:
    """The first sentence of a docstring, or what there is of it on the first line."""
    head = " ".join(_doc(x).split("\n\n")[0].split())
    return re.split(r"(?<=[^.][.;:])\s", head)[0].rstrip(".;:")


def _doc(x: Any) -> str:
    own = x.__dict__.get("__doc__") if isinstance(x, type) else x.__doc__  # not what a base class says
    return inspect.cleandoc(own or "")


def _page(name: str, x: Any, examples: list[str]) -> str:
    lines = [f"# {name}", ""]
    if not isinstance(x, type):
        lines += ["```python", f"{name}{_signature(x)}", "```", ""]
    lines += _prose(_doc(x))
    if not isinstance(x, FunctionType):
        lines += _members(x)
    if examples:
        lines += ["In " + ", ".join(f"[{each}](../../examples/{each})" for each in examples) + ".", ""]
    return "\n".join(lines)


def _members(x: Any) -> Iterator[str]:
    """Public methods and properties of a class, those of its bases too; of an operator .compile and .plan."""
    for name, member in inspect.getmembers(x):
        held = member.fget if isinstance(member, property) else getattr(member, "func", member)
        held = getattr(held, "__func__", held)
        if name[0] == "_" or not isinstance(held, FunctionType) or not held.__module__.startswith("tilec"):
            continue
        shown = _signature(member, method=_takes_self(x, name)) if callable(member) else ""
        yield from (f"## .{name}", "", "```python", f"{name}{shown}", "```", "", *_prose(_doc(held)))


def _takes_self(x: Any, name: str) -> bool:
    return isinstance(x, type) and isinstance(inspect.getattr_static(x, name), FunctionType)


class _Bare(str):
    """An annotation, shown without quotes."""

    __repr__ = str.__str__


def _signature(function: Any, method: bool = False) -> str:
    """As it is called: without self, and without what the front end passes. Of operators without types,
    which are any library's arrays.
    """
    known = inspect.signature(function)
    shown = [p for p in known.parameters.values() if p.name != "site"][1 if method else 0 :]
    if _module(function) == "tilec.ops":
        return str(inspect.Signature([p.replace(annotation=p.empty) for p in shown]))
    typed = [p.replace(annotation=_bare(p.annotation)) for p in shown]
    return str(inspect.Signature(typed, return_annotation=_bare(known.return_annotation)))


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


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
