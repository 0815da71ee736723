"""Weights as checkpoints keep them: GPTQ, AWQ, HQQ, compressed-tensors, ONNX, MXFP4, NVFP4 and GGUF.

    q = QuantizedWeight.from_gptq(t["qweight"], t["qzeros"], t["scales"], t.get("g_idx"))
    y = ops.linear(x, q)
Each becomes the one canonical form (ops/weight.py), code by code; nothing is quantised anew. Arrays are
numpy's or any library's. Only numbers are read: no code comes from a file.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, TypeVar

import numpy as np

from tilec.device import DeviceArray, memory_of
from tilec.ir import codec
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ir.packing import unpack_codes
from tilec.ops.arrays import numpy_dtype

Array = np.ndarray[Any, Any]
W = TypeVar("W", bound="Checkpoints")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each nibble of a word, lowest first
SAFETENSORS = {"F8_E4M3": "f8e4m3", "F8_E5M2": "f8e5m2", "F8_E8M0": "e8m0"}  # dtypes' other names
HQQ_PER_ITEM = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}  # codes that an item of W_q holds


class Checkpoints:
    """What reads checkpoints' tensors, for QuantizedWeight."""

    @classmethod
    def from_gptq(
        cls: type[W], qweight: Any, qzeros: Any, scales: Any, g_idx: Any = None, v1: bool = True
    ) -> W:
        """GPTQ, of 2, 3, 4 or 8 bits: qweight int32 [K * bits / 32, N] and qzeros int32
        [groups, N * bits / 32], both bit streams from the lowest bit up; scales [groups, N]; `v1`: zeros are
        stored less one.

        `g_idx` [K], the group of each column of x (act-order): the weight remembers the order, and
        `ops.linear` takes x's columns in it. TilecError for shapes that contradict each other.
        """
        words, zero_words = matrix(qweight, "qweight", "iu"), matrix(qzeros, "qzeros", "iu")
        held = matrix(scales, "scales", "f")
        (groups, n), bits = held.shape, zero_words.shape[1] * 32 // max(1, held.shape[1])
        fits = words.shape[1] == n and zero_words.shape == (groups, -(-n * bits // 32))
        if bits not in (2, 3, 4, 8) or not fits:
            raise contradict("GPTQ", qweight=words, qzeros=zero_words, scales=held)
        k = words.shape[0] * 32 // bits
        codes = stream(words.T, bits, k)
        zeros = stream(zero_words, bits, n).T + np.uint8(v1)
        order, size = _group_order(g_idx, k, groups)
        codes = codes if order is None else codes[:, order]
        return cls._made(codes, held.T, zeros, f"u{bits}", size, order)

    @classmethod
    def from_awq(cls: type[W], qweight: Any, qzeros: Any, scales: Any) -> W:
        """AWQ, of 4 bits: qweight int32 [K, N / 8], qzeros int32 [groups, N / 8], nibbles of a word in the
        order 0, 2, 4, 6, 1, 3, 5, 7 of the columns; scales [groups, N].
        """
        words, zero_words = matrix(qweight, "qweight", "iu"), matrix(qzeros, "qzeros", "iu")
        held = matrix(scales, "scales", "f")
        (k, columns), (groups, n) = words.shape, held.shape
        if columns * 8 != n or zero_words.shape != (groups, columns) or k % groups:
            raise contradict("AWQ", qweight=words, qzeros=zero_words, scales=held)
        return cls._made(_awq(words).T, held.T, _awq(zero_words).T, "u4", k // groups)

    @classmethod
    def from_hqq(
        cls: type[W], W_q: Any, scale: Any, zero: Any, *, shape: tuple[int, int], bits: int, group_size: int,
        axis: int = 1,
    ) -> W:  # fmt: skip
        """HQQ, of 1, 2, 3, 4 or 8 bits, with groups along the input (axis 1): W_q in its packing for so many
        bits (the first rows of groups in the highest bits), scale and zero floats, one per group.
        """
        if axis != 1:
            raise TilecError("HQQ's axis=0 groups weights of different outputs: only axis=1 can be read")
        if bits not in HQQ_PER_ITEM:
            raise TilecError(f"HQQ has 1, 2, 3, 4 or 8 bits, found {bits}")
        n, k = pair(shape, "shape")
        held, rows = matrix(W_q, "W_q", "iu"), n * k // counted(group_size, "group_size")
        per = HQQ_PER_ITEM[bits]
        scales, zeros = (numbers(x, name, "f").reshape(-1) for x, name in ((scale, "scale"), (zero, "zero")))
        fits = held.shape == (-(-rows // per), group_size) and scales.size == zeros.size == rows
        if k % group_size or not fits:
            raise contradict(f"HQQ [{n}, {k}] in groups of {group_size}", W_q=held, scale=scales, zero=zeros)
        shifts = [bits * (per - 1 - i) for i in range(per)]
        items, mask = held.astype(np.uint32), np.uint32((1 << bits) - 1)
        parts = [(items >> np.uint32(shift)) & mask for shift in shifts]
        codes = np.concatenate(parts)[:rows].astype(np.uint8).reshape(n, k)
        return cls._made(codes, scales.reshape(n, -1), zeros.reshape(n, -1), f"u{bits}", group_size)

    @classmethod
    def from_compressed_tensors(
        cls: type[W], weight_packed: Any, weight_scale: Any, weight_shape: Any, weight_zero_point: Any = None,
        weight_g_idx: Any = None,
    ) -> W:  # fmt: skip
        """compressed-tensors' pack-quantized format, of 4 or 8 bits: weight_packed int32 [N, K * bits / 32],
        codes plus 2^(bits - 1); weight_scale [N, groups]; zeros packed likewise along N.
        """
        n, k = pair(weight_shape, "weight_shape")
        words = matrix(weight_packed, "weight_packed", "iu")
        held = matrix(weight_scale, "weight_scale", "f")
        bits = next((b for b in (4, 8) if words.shape == (n, -(-k * b // 32))), 0)
        if not bits or held.shape[0] != n or k % held.shape[1]:
            raise contradict(f"compressed-tensors [{n}, {k}]", weight_packed=words, weight_scale=held)
        groups, zeros = held.shape[1], None
        if weight_zero_point is not None:
            packed = matrix(weight_zero_point, "weight_zero_point", "iu")
            if packed.shape != (-(-n * bits // 32), groups):
                what = f"compressed-tensors [{n}, {k}]"
                raise contradict(what, weight_scale=held, weight_zero_point=packed)
            zeros = stream(packed.T, bits, n).T
        order, size = _group_order(weight_g_idx, k, groups)
        codes = stream(words, bits, k)
        return cls._made(codes if order is None else codes[:, order], held, zeros, f"u{bits}", size, order)

    @classmethod
    def from_onnx_nbits(
        cls: type[W], B: Any, scales: Any, zero_points: Any = None, *, K: int, bits: int = 4, block_size: int
    ) -> W:
        """ONNX's MatMulNBits, of 2, 4 or 8 bits: B uint8 [N, blocks, block_size * bits / 8]; scales, one per
        block; zero_points uint8, packed row by row, or floats; 2^(bits - 1) without them.
        """
        held, blocks = numbers(B, "B", "u"), -(-counted(K, "K") // counted(block_size, "block_size"))
        size = block_size * bits // 8
        if bits not in (2, 4, 8) or held.ndim != 3 or not held.size or held.shape[1:] != (blocks, size):
            raise contradict(f"MatMulNBits of K = {K}, {bits} bits, blocks of {block_size}", B=held)
        n = held.shape[0]
        per_block = numbers(scales, "scales", "f").reshape(-1)
        if per_block.size != n * blocks:
            raise contradict(f"MatMulNBits [{n}, {K}]", B=held, scales=per_block)
        codes = stream(held.reshape(n, -1), bits, blocks * block_size)[:, :K]
        zeros = None if zero_points is None else _onnx_zeros(zero_points, n, blocks, bits)
        return cls._made(codes, per_block.reshape(n, blocks), zeros, f"u{bits}", block_size)

    @classmethod
    def from_mxfp4(cls: type[W], blocks: Any, scales: Any) -> W:
        """OCP's MXFP4: blocks uint8 [N, K / 32, 16], or [N, K / 2], low nibbles first; scales uint8
        [N, K / 32], powers of two (e8m0).
        """
        held, powers = numbers(blocks, "blocks", "u"), matrix(scales, "scales", "u")
        n, groups = powers.shape
        if held.ndim > 3 or held.size != n * groups * 16 or held.shape[0] != n:
            raise contradict("MXFP4", blocks=held, scales=powers)
        if (powers == 255).any():
            raise TilecError("a scale of MXFP4 is 255, which is no number")
        codes = stream(held.reshape(n, -1), 4, groups * 32)
        values = codec.decode(powers, find_dtype("e8m0"))
        return cls._made(codes, values, None, "f4e2m1", 32, scale_dtype="e8m0")

    @classmethod
    def from_nvfp4(
        cls: type[W], weight: Any, weight_scale: Any, weight_scale_2: Any, *, divides: bool = False
    ) -> W:
        """NVFP4: weight uint8 [N, K / 2], low nibbles first; weight_scale f8e4m3 (or its bytes) [N, K / 16];
        weight_scale_2, one number that multiplies them all, or `divides` (compressed-tensors' global scale).
        """
        held, blocks = matrix(weight, "weight", "u"), numbers(weight_scale, "weight_scale", "uVf")
        kind = find_dtype("f8e4m3")
        values = codec.decode(blocks.view(np.uint8), kind) if blocks.dtype.itemsize == 1 else blocks
        whole = numbers(weight_scale_2, "weight_scale_2", "f").astype(np.float32).reshape(-1)
        n, k = held.shape[0], held.shape[1] * 2
        if blocks.shape != (n, k // 16) or k % 16 or whole.size != 1:
            raise contradict("NVFP4", weight=held, weight_scale=blocks, weight_scale_2=whole)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # told of below
            scales = values.astype(np.float32) / whole if divides else values.astype(np.float32) * whole
        return cls._made(stream(held, 4, k), scales, None, "f4e2m1", 16, scale_dtype="f32")

    @classmethod
    def from_gguf(cls: type[W], data: Any, kind: str) -> W:
        """A tensor of a GGUF file: its bytes uint8 [N, bytes of a row], and its type: Q4_0, Q4_1, Q5_0, Q5_1,
        Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K or MXFP4. `read_gguf` opens files.

        Types with minima keep them as zeros in f32 (w = (code - zero) * scale): right to f32's rounding.
        """
        from tilec.ops import gguf_blocks

        found = gguf_blocks.read(matrix(data, "data", "u"), kind)
        return cls._made(found.codes, found.scales, found.zeros, found.dtype, found.group, scale_dtype="f32")

    @classmethod
    def _made(
        cls: type[W], codes: Array, scales: Array, zeros: Array | None, dtype: str, group: int,
        order: Array | None = None, scale_dtype: str | None = None,
    ) -> W:  # fmt: skip
        """The canonical form; zeros that are all the type's own are left out."""
        kind = find_dtype(dtype)
        to = find_dtype(scale_dtype or scales.dtype)
        numbers = codec.from_storage(scales, to) if scale_dtype is None else scales
        if not all(np.isfinite(x.astype(np.float64)).all() for x in (numbers, zeros) if x is not None):
            raise TilecError("a checkpoint's scales and zeros are finite numbers, found one that is not")
        middle = 1 << kind.bits - 1
        if zeros is not None and kind.bits > 1 and not kind.is_signed and (zeros == middle).all():
            zeros = None
        held = None if zeros is None else np.ascontiguousarray(zeros)
        numbers = np.ascontiguousarray(numbers, to.reference)
        made: Any = cls
        result: W = made(np.ascontiguousarray(codes), numbers, held, kind, to, group, order)
        return result


# Reading arrays.


def numbers(x: Any, name: str, kinds: str) -> Array:
    """An array of any library as numpy's, of integers or floats as `kinds` says."""
    held = memory_of(x, name)
    found = held.numpy() if isinstance(held, DeviceArray) else np.asarray(x if held is None else held)
    wanted = "floats" if kinds == "f" else "integers"
    if found.dtype.kind in "OSU":
        raise TilecError(f"{name} are {wanted}, found {type(x).__name__}")
    kind = "f" if find_dtype(found.dtype).is_float else found.dtype.kind
    if kind not in kinds:
        raise TilecError(f"{name} are {wanted}, found {found.dtype}")
    return found


def matrix(x: Any, name: str, kinds: str) -> Array:
    found = numbers(x, name, kinds)
    if found.ndim != 2 or found.size == 0:
        more = ": experts of a mixture are read one by one" if found.ndim == 3 else ""
        raise TilecError(f"{name} has two axes and some elements, found shape {list(found.shape)}{more}")
    return np.ascontiguousarray(found)


def pair(shape: Any, name: str) -> tuple[int, int]:
    found = numbers(shape, name, "iu").reshape(-1)
    if found.size != 2 or found.min() < 1:
        raise TilecError(f"a weight's shape is [N, K], found {found.tolist()}")
    n, k = found.tolist()
    return n, k


def counted(x: Any, name: str) -> int:
    """A number of columns; TilecError for what is none."""
    if not isinstance(x, int | np.integer) or x < 1:
        raise TilecError(f"{name} is a number of columns, from 1 on, found {x!r}")
    return int(x)


def contradict(what: str, **arrays: Array) -> TilecError:
    told = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items())
    return TilecError(f"these are no tensors of one weight in {what}: {told}")


def stream(rows: Array, bits: int, count: int) -> Array:
    """The first `count` codes of each row of words, from the lowest bit up: uint8 [rows, count]."""
    words = np.ascontiguousarray(_words(rows) if rows.dtype.itemsize > 4 else rows)
    data = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(len(words), -1)
    if data.shape[1] * 8 < count * bits:
        need = -(-count * bits // 8)
        raise TilecError(f"a row of {count} codes of {bits} bits takes {need} bytes, found {data.shape[1]}")
    return np.stack([unpack_codes(row, bits, count) for row in data]).astype(np.uint8)


def _words(rows: Array) -> Array:
    """32-bit words that came as wider integers."""
    if rows.min() < -(2**31) or rows.max() >= 2**32:
        raise TilecError(f"packed codes are words of 32 bits, found {rows.dtype} beyond them")
    return (rows & 0xFFFFFFFF).astype(np.uint32)


def _awq(words: Array) -> Array:
    """The codes of a matrix of words, [rows, 8 * columns]."""
    held = _words(words) if words.dtype.itemsize > 4 else words.astype(np.uint32)
    nibbles = (held[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & np.uint32(15)
    codes = np.empty(nibbles.shape, np.uint8)
    codes[..., list(AWQ_ORDER)] = nibbles
    return codes.reshape(len(words), -1)


def _group_order(g_idx: Any, k: int, groups: int) -> tuple[Array | None, int]:
    """The order of columns in which groups lie side by side, None where they do; and a group's size."""
    if g_idx is None:
        if k % groups:
            raise TilecError(
                f"{k} columns are not {groups} groups of one size: pass g_idx, which tells theirs"
            )
        return None, k // groups
    found = numbers(g_idx, "g_idx", "iu").reshape(-1)
    low, high = (found.min(), found.max()) if found.size else (0, 0)
    if found.size != k or low < 0 or high >= groups:
        raise TilecError(
            f"g_idx gives each of {k} columns one of {groups} groups, found {found.size} from {low} to {high}"
        )
    order, size = np.argsort(found, kind="stable"), int(np.bincount(found).max())
    if -(-k // size) != groups or (found[order] != np.arange(k) // size).any():
        raise TilecError(
            f"g_idx makes groups of different sizes: {groups} can be read that are of {size} columns each, "
            "the last of no more"
        )
    return (None if (order == np.arange(k)).all() else order.astype(np.int32)), size


def _onnx_zeros(zero_points: Any, n: int, blocks: int, bits: int) -> Array:
    held = numbers(zero_points, "zero_points", "uf")
    packed, need = held.dtype.kind == "u", -(-blocks * bits // 8)
    if held.size != n * (need if packed else blocks):
        each = f"{need} bytes" if packed else f"{blocks} numbers"
        raise TilecError(
            f"zero_points of {n} rows of {blocks} blocks are {each} a row, found shape {list(held.shape)}"
        )
    rows = held.reshape(n, -1)
    return stream(rows, bits, blocks) if packed else rows.astype(np.float32)


def read_gguf(path: Any) -> dict[str, tuple[Array, str]]:
    """The tensors of a GGUF file by name: (bytes as `QuantizedWeight.from_gguf` takes them, type's name).

    The file is mapped, not read. Needs the package gguf. TilecError where it is missing, or no such file.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise TilecError("reading GGUF files needs the package gguf: install it") from None
    try:
        tensors = GGUFReader(str(path)).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise TilecError(f"{path} is no GGUF file that can be read: {error}") from None
    return {t.name: (np.asarray(t.data), t.tensor_type.name) for t in tensors}


def read_safetensors(path: Any) -> dict[str, Array]:
    """The tensors of a safetensors file by name, as numpy's arrays; bf16 and floats of 8 bits are ml_dtypes'.

    The file is mapped, not read. TilecError where there is none, or where it is damaged.
    Source: the description of the format in its README, https://github.com/huggingface/safetensors
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        return {name: _mapped(data[start:], **entry) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, TilecError) as error:
        raise TilecError(f"{path} is no safetensors file that can be read: {error}") from None


def _mapped(data: Array, dtype: str, shape: list[int], data_offsets: list[int]) -> Array:
    """A tensor of a file. Raises TilecError where its bytes are not there, or are not as many as it has."""
    kind = numpy_dtype(find_dtype(SAFETENSORS.get(dtype, dtype.lower())))
    first, last = data_offsets
    if min(first, *shape, 0) < 0 or not last <= len(data) or last - first != prod(shape) * kind.itemsize:
        raise TilecError(f"a tensor {dtype} {shape} does not lie in bytes {first} to {last} of {len(data)}")
    return data[first:last].view(kind).reshape(shape)
