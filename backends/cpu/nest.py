"""Loop nests: one body over every element of a tile, a vector at a time.

    nest(w, (128, 32), [x, y], [z], 16, lambda args, point: [w.op("fadd", "float", *args)])
writes what reads x and y, adds, and writes z; `point` says where it is. Axes that are one axis for all
operands are merged; what does not change along an axis is read outside its loop; the end of a row that is
no whole vector is done by a narrower one, masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tilec.backends.convert import from_memory, to_memory, wrapped
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.places import Affine, Place, Ref, Shape, Splat
from tilec.backends.writer import Writer, held, is_code, signed
from tilec.ir.dtype import DType


@dataclass(frozen=True)
class Point:
    """The vector that a body is asked for: coordinates (of the nest's axes, the last is its first lane's),
    lanes.
    """

    at: tuple[Index, ...]
    lanes: Lanes


Body = Callable[[list[str], Point], Sequence[str]]


def nest(
    w: Writer, shape: Shape, inputs: Sequence[Place], outputs: Sequence[Ref], width: int, body: Body,
    merge: bool = True,
) -> None:  # fmt: skip
    """Writes the loops. With `merge` off the nest's axes are those of the shape."""
    operands = [strides_of(place, len(shape)) for place in (*inputs, *outputs)]
    extents, merged = merged_axes(shape, operands) if merge else (shape, operands)
    _Nest(w, extents or (1,), inputs, outputs, merged, width, body).run()


def width_for(w: Writer, dtypes: Sequence[DType], vector_bytes: int) -> int:
    """Lanes such that the widest of these types fills one vector register."""
    return vector_bytes // max(_compute_bytes(w, dtype) for dtype in dtypes)


def _compute_bytes(w: Writer, dtype: DType) -> int:
    """Bytes of an element where it is computed with: 4 for what passes through f32."""
    small = is_code(dtype) or held(dtype) == "bfloat" or (held(dtype) == "half" and not w.native_half)
    return 4 if small else max(8, dtype.bits) // 8


def strides_of(place: Place, rank: int) -> tuple[Index, ...]:
    return (0,) * rank if isinstance(place, Splat) else place.strides


def merged_axes(shape: Shape, operands: Sequence[tuple[Index, ...]]) -> tuple[Shape, list[tuple[Index, ...]]]:
    """Fewer axes: extents of 1 vanish, neighbours become one where every operand walks them as one."""
    axes = [axis for axis, n in enumerate(shape) if n != 1]
    groups: list[list[int]] = []
    for axis in axes:
        if groups and all(_one_axis(strides, groups[-1][-1], axis, shape[axis]) for strides in operands):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    extents = tuple(prod(shape[axis] for axis in group) for group in groups)
    return extents, [tuple(strides[group[-1]] for group in groups) or (0,) for strides in operands]


def _one_axis(strides: tuple[Index, ...], outer: int, inner: int, extent: int) -> bool:
    a, b = strides[outer], strides[inner]
    return isinstance(a, int) and isinstance(b, int) and a == b * extent


def held_from(w: Writer, register: str, ref: Ref) -> str:
    """What memory gave, as it is held."""
    if ref.raw:
        return from_memory(w, register, ref.dtype)
    return w.convert("trunc", "i8", register, "i1") if ref.dtype.is_bool else register


def only(w: Writer, place: Place) -> str:
    """The register of a tile of one element, wherever it is."""
    match place:
        case Splat():
            return place.register
        case Affine():
            return w.constant(place.start, place.dtype)
        case Ref():
            return held_from(w, read(w, place.base, place.element, 1, Lanes(1, 1)), place)


@dataclass
class _Nest:
    w: Writer
    extents: Shape
    inputs: Sequence[Place]
    outputs: Sequence[Ref]
    strides: Sequence[tuple[Index, ...]]
    width: int
    body: Body

    def run(self) -> None:
        pointers = [p.base if isinstance(p, Ref) else "" for p in (*self.inputs, *self.outputs)]
        self.level((), pointers, {})

    def level(self, at: tuple[Index, ...], pointers: list[str], ready: dict[int, str]) -> None:
        """The loops over the axes that are left, given the coordinates of those outside."""
        axis = len(at)
        ready = ready | self.read_constant(axis, pointers, ready)
        if axis == len(self.extents) - 1:
            self.row(at, pointers, ready)
        elif self.extents[axis] == 1:
            self.level((*at, 0), pointers, ready)
        else:
            with loop(self.w, 0, self.extents[axis]) as run:
                self.level((*at, run.index), self.stepped(pointers, axis, run.index), ready)

    def read_constant(self, axis: int, pointers: list[str], ready: dict[int, str]) -> dict[int, str]:
        """Scalars that are the same from here on inwards."""
        found = {}
        for i, place in enumerate(self.inputs):
            if i in ready or any(self.strides[i][axis:]):
                continue
            if isinstance(place, Splat):
                found[i] = place.register
            elif isinstance(place, Ref):
                with self.w.at_width(1) as w:
                    found[i] = held_from(w, read(w, pointers[i], place.element, 1, Lanes(1, 1)), place)
        return found

    def stepped(self, pointers: list[str], axis: int, index: Index) -> list[str]:
        """Pointers moved along an axis."""
        moved = list(pointers)
        for i, place in enumerate((*self.inputs, *self.outputs)):
            if isinstance(place, Ref):
                by = mul(self.w, index, self.strides[i][axis])
                moved[i] = step_pointer(self.w, pointers[i], place.element, by)
        return moved

    def row(self, at: tuple[Index, ...], pointers: list[str], ready: dict[int, str]) -> None:
        """The innermost axis: whole vectors, then the rest."""
        extent = self.extents[-1]
        width = min(self.width, 1 << (extent - 1).bit_length())
        whole = extent - extent % width
        with self.w.at_width(width):
            spread = self.spread(ready)
            if whole == width:
                self.vector((*at, 0), pointers, spread, Lanes(width, width))
            elif whole:
                with loop(self.w, 0, whole, width) as run:
                    self.vector((*at, run.index), pointers, spread, Lanes(width, width))
        if whole < extent:
            rest = extent - whole
            width = 1 << (rest - 1).bit_length()
            with self.w.at_width(width):
                self.vector((*at, whole), pointers, self.spread(ready), Lanes(width, rest))

    def spread(self, ready: dict[int, str]) -> dict[int, str]:
        return {i: self.w.spread(scalar, self.w.held(self.inputs[i].dtype)) for i, scalar in ready.items()}

    def vector(self, at: tuple[Index, ...], pointers: list[str], ready: dict[int, str], lanes: Lanes) -> None:
        """One vector: reads, the body, writes."""
        pointers = self.stepped(pointers, len(at) - 1, at[-1])
        args = [
            ready[i] if i in ready else self.operand(i, at, pointers, lanes) for i in range(len(self.inputs))
        ]
        results = self.body(args, Point(at, lanes))
        for i, (ref, register) in enumerate(zip(self.outputs, results, strict=True), len(self.inputs)):
            stride = 1 if self.w.width == 1 else self.strides[i][-1]
            write(self.w, to_memory(self.w, register, ref.dtype), pointers[i], ref.element, stride, lanes)

    def operand(self, i: int, at: tuple[Index, ...], pointers: list[str], lanes: Lanes) -> str:
        place, stride = self.inputs[i], self.strides[i][-1]
        if isinstance(place, Ref):
            one = 1 if self.w.width == 1 else stride
            return held_from(self.w, read(self.w, pointers[i], place.element, one, lanes), place)
        assert isinstance(place, Affine), "a splat is ready"
        return self.affine(place, self.strides[i], at)

    def affine(self, place: Affine, strides: tuple[Index, ...], at: tuple[Index, ...]) -> str:
        """The formula's value in each lane."""
        w, element = self.w, self.w.held(place.dtype)
        first: Index = place.start
        for index, stride in zip(at, strides, strict=True):
            first = add(w, first, mul(w, index, stride))
        if isinstance(first, int):
            base = w.integer(first, element)
        else:
            scalar = first if element == "i64" else w.let(f"trunc i64 {first} to {element}")
            base = w.spread(scalar, element)
        return wrapped(w, w.op("add", element, base, self.ramp(element, strides[-1])), place.dtype)

    def ramp(self, element: str, stride: Index) -> str:
        """0, stride, 2 * stride, ... in the lanes."""
        assert isinstance(stride, int), "a formula has constant coefficients"
        if self.w.width == 1 or stride == 0:
            return self.w.integer(0, element)
        return ramp(self.w, element, stride)


def ramp(w: Writer, element: str, stride: int) -> str:
    """A constant vector 0, stride, 2 * stride, ..."""
    if w.width == 1:
        return "0"
    return f"<{', '.join(f'{element} {signed(lane * stride, element)}' for lane in range(w.width))}>"
