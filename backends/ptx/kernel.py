"""A kernel as PTX: the LLVM IR of one thread, written straight from the tile instructions.

    compile(func, target("sm_90a")).ptx
`func` has been through the passes for its target: every tile has a layout, shared memory is planned, barriers
stand.
"""

from __future__ import annotations

from math import gcd

from tilec.backends import llvm
from tilec.backends.convert import from_memory, stored
from tilec.backends.ptx import reports
from tilec.backends.ptx.compiled import PtxKernel
from tilec.backends.ptx.control import write_block
from tilec.backends.ptx.emitter import ArrayRef, Emitter
from tilec.backends.ptx.locations import SUBPROGRAM, located
from tilec.backends.ptx.maps import described, headed
from tilec.backends.ptx.tables import constants
from tilec.backends.writer import Writer
from tilec.ir.errors import TilecError
from tilec.ir.facts import analyse
from tilec.ir.func import Func, root, written_arrays
from tilec.ir.inst.bulk import Gates
from tilec.ir.inst.memory import Alloc
from tilec.ir.inst.sync import ReadOnce
from tilec.ir.rewrite import uses
from tilec.ir.signature import signature
from tilec.ir.target import Target
from tilec.ir.tile import ArrayType, Dim

SHARED = "@shared"
MOST_OF_A_CLUSTER = 16  # blocks; more than 8 the driver is asked for


def compile(func: Func, target: Target) -> PtxKernel:  # noqa: A001 - the word that users know
    """PTX for a GPU; needs no GPU, driver or assembler."""
    size = shared_bytes(func)
    if size > target.shared_bytes_per_block:
        raise TilecError(
            f"{func.name} needs {size} bytes of shared memory, {target.name} has "
            f"{target.shared_bytes_per_block} "
            "for a block: choose smaller tiles or fewer stages", func.loc,
        )  # fmt: skip
    if func.all_warps > target.max_warps:
        raise TilecError(
            f"{func.name} asks for {func.all_warps} warps, {target.name} runs at most {target.max_warps}",
            func.loc,
        )
    _check_cluster(func, target)
    text = module(func, target)
    return PtxKernel(func, target, text, headed(reports.headed(llvm.to_ptx(text, target), text), text), size)


def _check_cluster(func: Func, target: Target) -> None:
    if func.cluster > 1 and not target.has("clusters"):
        raise TilecError(f"{target.name} has no clusters: leave cluster= out, or compile for sm_90", func.loc)
    if func.cluster > MOST_OF_A_CLUSTER:
        raise TilecError(f"a cluster has {MOST_OF_A_CLUSTER} blocks at most, found {func.cluster}", func.loc)


def shared_bytes(func: Func) -> int:
    """Bytes of shared memory of one block."""
    allocations = [inst for inst in func.walk() if isinstance(inst, Alloc | Gates)]
    return max((a.offset + a.nbytes for a in allocations if a.offset is not None), default=0)


def module(func: Func, target: Target) -> str:
    """The LLVM IR of the kernel."""
    writer = Writer("ptx")
    written = written_arrays(func)
    aliased = bool(func.schedule.get("alias"))
    read_only = frozenset(
        p for p in func.params if isinstance(p.type, ArrayType) and p not in written and not aliased
    )
    read_once = frozenset(root(inst.array) for inst in func.walk() if isinstance(inst, ReadOnce))
    e = Emitter(
        func, target, analyse(func), writer, read_only=read_only, read_once=read_once, users=uses(func)
    )
    parameters = _parameters(e)
    e.start_block("body")
    write_block(e, func.body)
    e.line("ret void")
    lines, places = located(writer.lines, func.name)
    debug = f" !dbg {SUBPROGRAM}" if places else ""
    parameters += [f'ptr byval([128 x i8]) align 64 "nvvm.grid_constant" %map{i}' for i in range(len(e.maps))]
    body = ["entry:", *_thread_number(e), *e.entry, "  br label %body", *lines, "}"]
    declarations = list(writer.declarations.values())
    shared = [f"{SHARED} = external addrspace(3) global [0 x i8], align 1024"] if shared_bytes(func) else []
    parameters += [f"ptr addrspace(1) align 16 {reports.POINTER}"] * bool(e.says)
    header = f"define ptx_kernel void @{func.name}({', '.join(parameters)}) #0{debug} {{"
    head = [*described(e.maps), *reports.described(e.says), *shared, *e.globals, *constants(e), header]
    return "\n".join([*head, *body, *declarations, *_attributes(func, e), *places, ""])


def _thread_number(e: Emitter) -> list[str]:
    e.writer.declare("llvm.nvvm.read.ptx.sreg.tid.x", "i32")
    return [f"  {e.tid} = call range(i32 0, {e.all_threads}) i32 @llvm.nvvm.read.ptx.sreg.tid.x()"]


def _attributes(func: Func, e: Emitter) -> list[str]:
    """Launch bounds as annotations: LLVM 20 knows no other way, and later ones read them too."""
    least = 1 if func.schedule.get("producer") else None  # else registers do not move
    named = {"maxntidx": e.all_threads, "minctasm": func.schedule.get("blocks_per_sm", least),
             "maxnreg": func.schedule.get("max_registers"),
             "cluster_dim_x": func.cluster if func.cluster > 1 else None}  # fmt: skip
    bounds = ", ".join(f'!"{name}", i32 {value}' for name, value in named.items() if value)
    last = len(signature(func)) + len(e.maps)  # parameters count from 1, maps come last
    constant = ", ".join(f"i32 {last - i}" for i in reversed(range(len(e.maps))))
    bounds += ', !"grid_constant", !5' if e.maps else ""
    return [
        "attributes #0 = { nounwind }",
        "attributes #1 = { convergent nounwind memory(none) }",
        "attributes #2 = { convergent nounwind }",
        "!1 = !{}",
        "!2 = distinct !{!2, !3}",
        '!3 = !{!"llvm.loop.unroll.disable"}',
        "!nvvm.annotations = !{!4}",
        f"!4 = !{{ptr @{func.name}, {bounds}}}",
        *([f"!5 = !{{{constant}}}"] if e.maps else []),
    ]


def _parameters(e: Emitter) -> list[str]:
    """The kernel's LLVM parameters; arrays and scalars are entered as values."""
    found: list[str] = []
    names: dict[tuple[str, int, int], str] = {}
    for i, slot in enumerate(signature(e.func)):
        name = names[slot.kind, slot.param, slot.axis] = f"%a{i}"
        if slot.kind == "pointer":
            align = e.func.params[slot.param].array_type.align
            noalias = "" if e.func.schedule.get("alias") else "noalias "
            found.append(f"ptr addrspace(1) {noalias}align {gcd(align, 128)} {name}")
        else:
            found.append(f"{stored(slot.dtype)} {name}")
    known = {
        n.name: names["extent", i, axis]
        for i, param in enumerate(e.func.params) if isinstance(param.type, ArrayType)
        for axis, n in enumerate(param.type.shape) if isinstance(n, Dim)
    }  # fmt: skip
    for i, param in enumerate(e.func.params):
        if not isinstance(param.type, ArrayType):
            with e.at_entry():
                e.values[param] = from_memory(e.writer, names["scalar", i, 0], param.tile.dtype)
            continue
        kind = param.type
        extents = tuple(n if isinstance(n, int) else names["extent", i, a] for a, n in enumerate(kind.shape))
        strides = tuple(_stride(e, n, names["stride", i, a], known) if isinstance(n, Dim) else n
                        for a, n in enumerate(kind.strides))  # fmt: skip
        e.values[param] = ArrayRef(names["pointer", i, 0], extents, strides)
    return found


def _stride(e: Emitter, stride: Dim, given: str, known: dict[str, str]) -> str:
    """A stride that is an extent too is not negative and fits 32 bits, which multiplications gain from."""
    if stride.name not in known:
        return given
    with e.at_entry():
        wide = e.let(f"zext i32 {known[stride.name]} to i64")
    e.narrow[wide] = known[stride.name]
    return wide
