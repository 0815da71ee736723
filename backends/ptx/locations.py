"""Lines of the kernel's source in its PTX: a `.loc` before what each of them became.

    mark(lines, loc)                           a comment: what the following lines are made of
    lines, metadata = located(lines, "add")    ... , !dbg !22   and   !22 = !DILocation(line: 31, scope: !21)
Only the directives are written (no DWARF): they cost nothing, and name the user's line in profilers, in SASS
and in what the emulator finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilec.ir.errors import Loc

MARK = "; from "
SUBPROGRAM = "!10"  # what the function's own line refers to
FIRST = 20  # of the numbers from here on: files, scopes and places


def mark(lines: list[str], loc: Loc | None) -> None:
    """Says where the lines that follow come from."""
    if loc is not None:
        lines.append(f"{MARK}{loc.line} {loc.file}")


def located(lines: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """The lines of the function `name` with places instead of marks, and the metadata that these need.

    Nothing changes where there are no marks; else the function has to refer to SUBPROGRAM.
    """
    numbers = _Numbers()
    found: list[str] = []
    place = ""
    for line in lines:
        if line.startswith(MARK):
            number, _, file = line.removeprefix(MARK).partition(" ")
            place = f", !dbg !{numbers.place(file, int(number))}"
        else:
            found.append(line + place if line.startswith("  ") else line)
    return found, numbers.metadata(name)


class _Numbers:
    """The metadata's numbers: a file has two, itself and its scope, a place has one."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.known: dict[tuple[str, int], int] = {}

    def add(self, text: str) -> int:
        self.texts.append(text)
        return FIRST + len(self.texts) - 1

    def file(self, name: str) -> int:
        if (name, 0) not in self.known:
            self.known[name, 0] = self.add(f'!DIFile(filename: "{escaped(name)}", directory: "")')
            scope = f"scope: {SUBPROGRAM}, file: !{self.known[name, 0]}, discriminator: 0"
            self.add(f"!DILexicalBlockFile({scope})")
        return self.known[name, 0]

    def place(self, file: str, line: int) -> int:
        if (file, line) not in self.known:
            scope = self.file(file) + 1
            self.known[file, line] = self.add(f"!DILocation(line: {line}, scope: !{scope})")
        return self.known[file, line]

    def metadata(self, name: str) -> list[str]:
        if not self.texts:
            return []
        unit = f"language: DW_LANG_C, file: !{FIRST}, emissionKind: DebugDirectivesOnly"
        function = f'name: "{name}", file: !{FIRST}, line: 1, type: !13, unit: !11'
        return [
            "!llvm.dbg.cu = !{!11}",
            "!llvm.module.flags = !{!12}",
            f"{SUBPROGRAM} = distinct !DISubprogram({function}, spFlags: DISPFlagDefinition)",
            f"!11 = distinct !DICompileUnit({unit})",
            '!12 = !{i32 2, !"Debug Info Version", i32 3}',
            "!13 = !DISubroutineType(types: !14)",
            "!14 = !{}",
            *(f"!{i} = {text}" for i, text in enumerate(self.texts, FIRST)),
        ]


def escaped(name: str) -> str:
    """A file's name in LLVM's quotes: \" and \\ become ' and /, bytes that are no ASCII hexadecimal."""
    plain = name.replace('"', "'").replace("\\", "/")
    return "".join(chr(b) if 32 <= b < 127 else f"\\{b:02X}" for b in plain.encode())
