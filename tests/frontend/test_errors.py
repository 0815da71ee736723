# ruff: noqa: E501 - one case a line
"""Every message of the front end: a kernel of a few lines, what it says, and at which line."""

from __future__ import annotations

import linecache
from itertools import count
from typing import Any

import numpy as np
import pytest

import tilec as tc

_number = count()
HEAD = """
@tc.kernel
def f(x: tc.Array, out: tc.Array, n: tc.i32, *, c=4):
    i = tc.blocks(1)
    t = x.load((0, 0), (8, 8))
"""


def build(source: str, **names: Any) -> Any:
    """Executes source that linecache knows, as a notebook does; gives what it defines as f."""
    file = f"<cell {next(_number)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {"tc": tc, "np": np, "__name__": "__main__", **names}
    exec(compile(source, file, "exec", dont_inherit=True), space)
    return space["f"]


def said(body: str, **names: Any) -> tuple[str, str]:
    """What a kernel with this body says, and the text of the line that it names."""
    source = HEAD + "\n".join(f"    {line}" for line in body.splitlines()) + "\n"
    kernel = build(source, **names)
    with pytest.raises(tc.TilecError) as caught:
        kernel.meaning(np.ones((16, 16), np.float32), np.ones((16, 16), np.float32), 3)
    error = caught.value
    assert error.loc is not None, error
    return error.message, source.splitlines()[error.loc.line - 1].strip()


CASES = {
    # syntax
    "try: pass\nexcept: pass": ("`try:` is not part of the kernel language: check shapes with tc.require", "try"),
    "class A: pass": ("`class A:` is not part of the kernel language: define the class outside", "class A"),
    "global g": ("`global g` is not part of the kernel language", "global"),
    "import math": ("import at the top of the file", "import math"),
    "match c:\n    case 4: pass": ("write if and elif", "match c"),
    "y = yield t": ("`(yield t)` is not part of the kernel language", "yield"),
    "del t[0]": ("`del t[0]` is not part", "del"),
    "@staticmethod\ndef g(): pass": ("takes no decorators", "def g"),
    "y = tt + 1": ("the name tt is not defined; did you mean t?", "tt + 1"),
    "y = t.astype(tc.f16)": ("Tile has no astype; did you mean to?", "astype"),
    "y = tc.maxmum(t, t)": ("module tilec has no maxmum; did you mean maximum?", "maxmum"),
    "a, b = 1, 2, 3": ("2 names on the left, 3 values on the right", "a, b"),
    "y = x.shape[2]": ("x has 2 axes, counted from 0: no x.shape[2]", "shape[2]"),
    "y = t.sum(1).shape[-2]": ("t.sum(1) has 1 axis, counted from 0: no t.sum(1).shape[-2]", "shape[-2]"),
    "p = (1, 2)\ny = p[2]": ("p has 2 items, counted from 0: no p[2]", "p[2]"),
    "t[0] = 3": ("a tile's elements are not assigned to: make a new one, tc.where", "= 3"),
    "return t": ("a kernel returns nothing: store the result into an array parameter", "return t"),
    "raise ValueError(f'c is {c}')": ("ValueError: c is 4", "raise"),
    "assert c == 5, f'{c=}'": ("assertion failed: c == 5: c=4", "assert"),
    "assert n == 5": ("use tc.assert_, or tc.require for shapes and parameters", "assert"),
    "y = 1 / 0": ("ZeroDivisionError: division by zero", "1 / 0"),
    # names of Triton, numpy and torch
    "y = tc.program_id(0)": ("module tilec has no program_id: tc.blocks(count) sets the grid", "program_id"),
    "y = tc.max(t, axis=1)": ("module tilec has no max: write x.max(axis); tc.maximum takes two tiles", "max"),
    "y = tc.sum(t)": ("module tilec has no sum: write x.sum(axis)", "sum"),
    "y = tc.reshape(t, 64)": ("module tilec has no reshape: tiles have it, x.reshape", "reshape"),
    "y = tc.load(x)": ("arrays are read with x.load(offsets, shape), or by tiles, X = x.tiles(shape)", "load"),
    "tc.store(x, t)": ("module tilec has no store: arrays are written with x.store(offsets, tile)", "store"),
    "tc.atomic_add(x, t)": ("module tilec has no atomic_add: arrays have it, x.atomic_add(places, tile)", "atomic"),
    "y = tc.__doc": ("module tilec has no __doc", "doc"),
    "y = x.load((0, 0), (8, 8), mask=t > 0)": ("load takes no mask=: arrays know their bounds", "mask"),
    "out.store((0, 0), t, mask=t > 0)": ("store takes no mask=: arrays know their bounds", "mask"),
    "y = x.load((0, 0), (8, 8), 0, volatile=True)": ("load takes no volatile=: how accesses are cached", "volatile"),
    "y = t.sum(1, keep_dims=True)": ("sum takes no keep_dims=: write keepdims=True", "keep_dims"),
    "y = x.load(0)": ("missing 1 required positional argument: 'shape': it takes (at, shape, other=None)", "x.load(0)"),
    "y = tc.zeros((8, 8))": ("missing 1 required positional argument: 'dtype': it takes (shape, dtype)", "zeros"),
    "tc.blocks(4, x=3)": ("unexpected keyword argument 'x': it takes (*counts)", "x=3"),
    "y = np.exp(t)": ("numpy.exp takes numbers, not tiles: write tc.exp(...)", "np.exp"),
    "y = np.max(t)": ("numpy.max takes numbers, not tiles: write x.max(axis)", "np.max"),
    "y = np.linalg.norm(t)": ("numpy.norm takes numbers, not tiles: tc has functions of its own", "norm"),
    "y = t.exp()": ("Tile has no exp: write tc.exp(tile)", "t.exp"),
    "y = x.exp()": ("Array has no exp: read a tile first, and write tc.exp(tile)", "x.exp"),
    "y = tc.exp(x)": ("tc.exp works on tiles: read one first, x.load(offsets, shape)", "exp(x)"),
    "y = t.mean(1)": ("Tile has no mean: write x.sum(axis) / n", "mean"),
    "y = x.T": ("Array has no T: pass the transposed view, x.T, or read a tile and write tile.T", "x.T"),
    "y = t.to(float)": ("found <class 'float'>: did you mean f32 or f64?", "float"),
    "y = (t > 0) != 0": ("a bool tile is a condition already: write x or ~x", "!= 0"),
    # constants and run-time values
    "y = t[0:n]": ("a slice of a tile has constant bounds", "t[0:n]"),
    "y = t[n]": ("a tile is indexed with constants, found scalar i32", "t[n]"),
    "y = t[::2]": ("a slice of a tile has step 1, not 2", "t[::2]"),
    "y = t[4:20]": ("the slice 4:20 of axis 0 must lie inside f32[8, 8]", "4:20"),
    "y = t[9]": ("index 9 on axis 0 of f32[8, 8], which has 8 elements there", "t[9]"),
    "y = t[0, 0, 0]": ("3 indices into f32[8, 8], which has 2 axes", "t[0, 0, 0]"),
    "for s in range(n): pass": ("loop with tc.range", "range(n)"),
    "y = int(n)": ("int() needs a constant", "int(n)"),
    "y = float(n)": ("float() needs a constant", "float(n)"),
    "y = bool(n)": ("belongs in an if, while or conditional expression", "bool(n)"),
    "y = any([t > 0])": ("a tile cannot be a condition", "any"),
    "for row in t: pass": ("a loop goes over tc.range or Python constants, not over tile f32[8, 8]", "for row"),
    "a, b = t": ("is not taken apart element by element", "a, b"),
    "y = len(n)": ("a scalar has no length", "len(n)"),
    "for a in x: pass": ("a loop goes over tc.range or Python constants, not over array x", "for a"),
    "y = [r for r in x]": ("x is an array, whose extents are run-time values", "for r in x"),
    "y = [s for s in tc.range(4)]": ("this one is unrolled while compiling: use range", "tc.range(4)"),
    "y = [s for s in range(4) if n > s]": ("a comprehension is built while compiling", "if n > s"),
    "y = list(tc.range(4))": ("tc.range is for the for loops of a kernel", "list"),
    "y = tc.static_range(n)": ("tc.static_range is unrolled and takes constants", "static_range(n)"),
    "y = tc.static(n)": ("tc.static takes an extent of a kernel's array", "tc.static(n)"),
    "y = tc.zeros((n,), tc.f32)": ("a tile takes a shape of constants, found scalar i32", "zeros"),
    "y = tc.zeros((0,), tc.f32)": ("takes extents of 1 or more, found 0", "zeros"),
    "y = tc.arange(0)": ("tc.arange(0, 0, 1) has no elements", "arange"),
    "y = tc.range(0, 4, -1)": ("tc.range counts up: its step is 1 or more, found -1", "-1"),
    "y = tc.range(4, stages=0)": ("stages is a constant of 1 or more, found 0", "stages"),
    "for s in tc.range(n.to(tc.f32)): pass": ("tc.range counts integers, not f32", "for s"),
    # operators
    "y = t + tc.zeros((8, 8), tc.f16)": ("add takes tiles of one dtype and shape, found f32[8, 8]", "t + tc"),
    "y = t + t[0:4]": ("add: f32[8, 8] and f32[4, 8] do not broadcast", "t[0:4]"),
    "y = t + 'a'": ("unsupported operand type(s) for +: 'Tile' and 'str'", "'a'"),
    "y = x + 1": ("x is an array in memory: read a tile first, x = x.load(offsets, shape)", "x + 1"),
    "y = t & t": ("and works on int and bool tiles, not on f32", "t & t"),
    "y = n / 2": ("/ divides floats, not i32: use // for whole numbers", "n / 2"),
    "y = t ** t": ("** takes the constants 1 to 8 and 0.5", "t ** t"),
    "y = n + 2.5": ("the constant 2.5 is not an integer, but meets i32", "2.5"),
    "y = n.to(tc.u8) + 300": ("the constant 300 is outside u8, which holds 0 to 255", "300"),
    "y = t.to(tc.f16) * 1e6": ("the constant 1000000.0 is outside f16", "1e6"),
    "y = t.to(tc.f8e4m3) + float('inf')": ("the constant inf is outside f8e4m3", "inf"),
    "y = t + True": ("True is no number of dtype f32", "True"),
    "y = (t > 0) & 1": ("1 is no number of dtype bool", "& 1"),
    "y = tc.exp(1.0)": ("tc.exp works on tiles, found 1.0: on constants use Python's math.exp", "exp"),
    "y = tc.sqrt(4.0)": ("sqrt works on tiles, found constants", "sqrt"),
    "y = tc.exp(n)": ("exp works on float tiles, not on i32", "exp"),
    "y = tc.where(True, t, t)": ("tc.where takes a bool tile, found True", "where"),
    "y = tc.where(t, t, t)": ("where takes a bool condition, not f32[8, 8]", "where"),
    "y = t @ t[0:4]": ("dot needs a's columns to match b's rows: a is 8x8, b is 4x8", "@"),
    "y = tc.dot(t, t.reshape(2, 4, 8))": ("dot takes tiles of rank 2, or of 3 for several products: a is", "dot"),
    "y = t.reshape(2, 4, 8) @ t.reshape(1, 8, 8)": ("dot of several products needs as many of a as of b", "@"),
    "y = tc.dot(t, t, t[0:4])": ("dot of 8x8 and 8x8 needs an accumulator of 8x8, not f32[4, 8]", "dot"),
    "y = tc.dot(t, x)": ("dot takes tiles, found Array: read a tile from the array first", "dot"),
    "y = t.T.T[0].T": (".T turns a tile of rank 2, not f32[8]", ".T"),
    "y = t.reshape(3, -1)": ("reshape keeps the number of elements", "reshape"),
    "y = t.permute(0, 0)": ("permute takes each axis of f32[8, 8] once", "permute"),
    "y = t.sum(2)": ("sum along axis 2: f32[8, 8] has axes 0 to 1", "sum"),
    "y = tc.stack([])": ("tc.stack takes one tile or more", "stack"),
    "y = tc.stack([t], 5)": ("tc.stack along axis 5: the result has axes 0 to 2", "stack"),
    "y = tc.full((4,), t, tc.f32)": ("tc.full takes a scalar of dtype f32, found f32[8, 8]", "full"),
    "y = tc.full((4,), 'a', tc.f32)": ("expected a number, found 'a'", "full"),
    "y = t.to('f99')": ("expected a dtype, found 'f99'", "f99"),
    # conditions
    "if n: pass": ("if takes a bool, found i32: compare it, as in x != 0", "if n"),
    "while t > 0: pass": ("while takes a scalar condition, found bool[8, 8]", "while"),
    "y = not t": ("not takes a scalar condition, found f32[8, 8]", "not t"),
    "y = n > 0 and t > 0": ("and takes a scalar condition, found bool[8, 8]", "and"),
    "y = 1 if t > 0 else 2": ("a conditional expression takes a scalar condition", "if t > 0"),
    "y = t if n > 0 else 2": ("is f32[8, 8] in one branch of the if of line 6 and 2 in the other", "else 2"),
    "while True: pass": ("this loop was unrolled 10000 times", "while True"),
    # loops and branches
    "for s in tc.range(4):\n    if n > s: return": ("`return` in a loop, where run time decides whether", "return"),
    "for s in range(4):\n    if n > s: return": ("break, and return after the loop", "return"),
    "for s in range(4):\n    if n > s: break\n    return": ("break, and return after the loop", "return"),
    "while n > 0: return": ("break, and return after the loop", "return"),
    "if n > 0: return t\ny = t": ("the value returned is f32[8, 8] in one branch of the if of line 6", "if n"),
    "with tc.debug(0):\n    if n > 0: return": ("leave after the `with`", "if n"),
    "for s in range(4):\n    if n > s: break\n    y = t\nz = y": ("y is assigned in only one branch of the if", "z = y"),
    "for s in range(4):\n    y = t\n    if n > s: break\n    y = n\nz = y": ("y is f32[8, 8] in one branch", "z = y"),
    "for s in tc.range(4): pass\nelse: pass": ("`else` after a loop is not part", "else: pass"),
    "while n > 0: pass\nelse: pass": ("`else` after a loop is not part", "else: pass"),
    "for s in tc.range(4):\n    y = t\nz = y": ("y is first assigned inside the loop of line 6", "z = y"),
    "if n > 0:\n    y = t\nz = y": ("y is assigned in only one branch of the if of line 6", "z = y"),
    "if n > 0:\n    y = t\nelse:\n    y = n\nz = y": ("y is f32[8, 8] in one branch of the if of line 6 and i32", "z = y"),
    "if n > 0:\n    y = (t,)\nelse:\n    y = t\nz = y": ("y is made of other parts in one branch", "z = y"),
    "for s in tc.range(4):\n    t = t.to(tc.f16)": ("t is f32[8, 8] before it and f16[8, 8] after one pass; cast", "t = "),
    "for s in tc.range(4):\n    t = t[0:4]": ("f32[4, 8] after one pass; give it its final shape", "t = t[0:4]"),
    "y = None\nfor s in tc.range(4):\n    y = t": ("y is None before it and f32[8, 8] after one pass", "y = t"),
    "y = 0\nfor s in tc.range(4):\n    y = t": ("y is 0 before it and f32[8, 8] after one pass; start with", "y = t"),
    "y = [t]\nfor s in tc.range(4):\n    y.append(t)": ("y[1] is there only after one pass", "for s"),
    "y = set()\nfor s in tc.range(4):\n    z = t * 2\n    y.add(z)\nw = list(y)[0] + 1": ("inside a loop that has ended", "w ="),
    "y = n\nfor s in tc.range(4):\n    if n > 0:\n        y = t": ("y is f32[8, 8] in one branch", "y = t"),
    # the kernel's own functions
    "def g(a): return a\ny = g()": ("g(): missing a required argument: 'a'; it takes (a)", "y = g()"),
    "def g(a): return g(a)\ny = g(t)": ("go too deep", "return g(a)"),
    # blocks and requirements
    "j = tc.blocks(4)": ("tc.blocks was called before: a kernel has one grid", "blocks"),
    "tc.require(t.sum() > 0)": ("tc.require is computed at launch, from shapes and scalar parameters only", "require"),
    "tc.require(i == 0)": ("tc.require is computed at launch", "require"),
    "tc.require(n)": ("tc.require takes a bool, found i32", "require"),
    "tc.require(c == 5)": ("the kernel requires c == 5", "require"),
    "tc.require(n > 5, n < 3)": ("the kernel requires n > 5", "require"),
    "if n > 0:\n    tc.require(n > 5)": ("tc.require stands outside loops and branches", "require"),
    "tc.assert_(c == 5)": ("assertion failed: c == 5", "assert_"),
    "tc.assert_(t > 5, 'small')": ("assertion failed in block 0: small", "assert_"),
    "tc.assert_(t)": ("assert_ takes a bool, not f32[8, 8]", "assert_"),
    "tc.print('hello')": ("tc.print prints tiles and scalars, found none", "print"),
    "f(x, out, n)": ("the kernel f is called inside a kernel", "f(x, out, n)"),
    # arrays
    "x.load((0,), (8,))": ("x.load takes one entry per axis: x is f32[x.0:16, x.1:16], of rank 2, found 1", "load"),
    "x.load((0, t), (8, 8))": ("x.load takes scalar offsets, found f32[8, 8]: a tile of places is for .gather", "load"),
    "x.load((0, n.to(tc.i64)), (8, 8))": ("x.load takes i32 offsets, found i64: cast with .to(tc.i32)", "load"),
    "x.load((0, 1.5), (8, 8))": ("takes integers or integer scalars as offsets, found 1.5", "load"),
    "x.load((0, 0), (8, 8), other='a')": ("other= takes a number or a scalar, found str", "other"),
    "x.load((0, 0), (8, 8), other=n)": ("other= takes a scalar of dtype f32, found i32", "other"),
    "x.tiles((8,))": ("x.tiles takes one entry per axis", "tiles"),
    "x.tiles((8, 8))[0]": ("x.tiles((8, 8)) takes 2 tile numbers, found 1", "tiles"),
    "x.tiles((8, 8))[0, 0:2]": ("tiles of x are read one at a time, not by a slice", "tiles"),
    "x.tiles((8, 8))[0, 0] = t[0:4, 0:4]": ("the tiles of x are [8, 8], found f32[4, 4]", "tiles"),
    "x.tiles((8, 8))[0, 0] = 'a'": ("x is written with a tile or a number, found str", "tiles"),
    "out.store((0, 0), x)": ("out is written with a tile or a number, found Array", "store"),
    "out.store((0, 0), t[None])": ("a store needs one offset and one extent per axis", "store"),
    "out[0:4, 0:4] = t": ("out is an array: write out.store(offsets, tile)", "= t"),
    "y = x[0, 0]": ("x[...] with an index on every axis is one element: write x.at(...)", "x[0, 0]"),
    "y = x[0, None]": ("an array takes no new axes", "None"),
    "y = x[0, ::-1]": ("the step of an array's slice is a constant of 1 or more, found -1", "::-1"),
    "y = x[0, ::n]": ("the step of an array's slice is a constant of 1 or more", "::n"),
    "y = x[0, 0, 0]": ("3 indices into array x", "x[0, 0, 0]"),
    "if n > 0:\n    v = x[0:n]\n    w = set([v])\nz = x.load((0, 0), (4, 4))\nfor u in (1,): y = v": ("v is assigned in only one", "y = v"),
    "x.gather(0, t)": ("gather takes integer index tiles of one shape", "gather"),
    "x.atomic_min((0, 0), 1.0)": ("atomic_min works on 32- and 64-bit integers", "atomic_min"),
    "y = tc.shared((n,), tc.f32)": ("tc.shared takes a shape of constants", "shared"),
    "y = tc.scan(t, 'prod')": ("scan runs sum, max or min, not 'prod'", "scan"),
    "y = t.bitcast(tc.f16)": ("bitcast keeps the width", "bitcast"),
}  # fmt: skip


@pytest.mark.parametrize("body", CASES)
def test_messages(body: str) -> None:
    message, place = CASES[body]
    found, line = said(body)
    assert message in found
    assert place in line
