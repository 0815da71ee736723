"""What the parser makes of PTX text: functions, variables, instructions and their operands, all plain values.

add.s32 %r1, %r2, 5;   ->   Instruction("add", ("s32",), (Register("%r1", "b32"), Register("%r2", "b32"),
                                                         Immediate(5, "int")), ...)
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Register:
    """A virtual register: its name (made unique over scopes and functions) and its declared type."""

    name: str
    type: str


@dataclass(frozen=True)
class Special:
    """A read-only register of the machine, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A literal: an integer, or the bits of a float (form "f32" or "f64")."""

    value: int
    form: str


@dataclass(frozen=True)
class Symbol:
    """The address of a variable (or a function's name), plus an offset."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Label:
    """A place in the code; resolved to an instruction number within its function."""

    target: int


@dataclass(frozen=True)
class Address:
    """[base + offset], with tensor coordinates and offsets where the instruction has them."""

    base: Operand
    offset: int = 0
    coordinates: Operand | None = None


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """d|p: two destinations of one instruction."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    """!p or, for a float or integer register, -a."""

    of: Operand


Operand = Register | Special | Immediate | Symbol | Label | Address | Vector | Pair | Negated


@dataclass(frozen=True)
class Instruction:
    """One statement: opcode root, its modifiers in order, operands, guard, and where it stands."""

    root: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Operand | None
    line: int
    text: str
    source: tuple[str, int] | None = None

    @property
    def opcode(self) -> str:
        return ".".join((self.root, *self.modifiers))


@dataclass(frozen=True)
class Variable:
    """A .global, .const, .shared, .local or .param variable; size 0 is an extern array of unknown size.

    pointee: the alignment that .ptr promises of the memory a parameter points at; 0 where it says nothing.
    """

    name: str
    space: str
    type: str
    size: int
    align: int
    contents: tuple[int | tuple[str, int], ...] = ()
    external: bool = False
    pointee: int = 0


@dataclass
class Function:
    """A kernel or .func: its formal parameters, local variables and code."""

    name: str
    entry: bool
    line: int
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    branch_targets: dict[str, tuple[Label, ...]] = field(default_factory=dict)
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    defined: bool = False


@dataclass
class Source:
    """A parsed module."""

    target: str = ""
    version: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
