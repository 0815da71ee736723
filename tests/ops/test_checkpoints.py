"""Checkpoints' tensors, packed here bit by bit from their descriptions: read back code by code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilec import ops
from tilec.ir.errors import TilecError
from tilec.ops import QuantizedWeight, checkpoints

Array = np.ndarray[Any, Any]
N, K, GROUP = 32, 64, 16


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def weight(bits: int, n: int = N, k: int = K, group: int = GROUP) -> tuple[Array, Array, Array, Array]:
    """Codes [n, k], scales and zeros [n, k / group], and the weight that they stand for."""
    g = rng()
    codes, zeros = g.integers(0, 1 << bits, (n, k)), g.integers(1, 1 << bits, (n, k // group))
    scales = g.uniform(0.01, 0.1, (n, k // group)).astype(np.float16)
    wide = [np.repeat(x.astype(np.float32), group, axis=1) for x in (zeros, scales)]
    return codes, scales, zeros, (codes - wide[0]).astype(np.float32) * wide[1]


def stream_along_rows(codes: Array, bits: int) -> Array:
    """Words along axis 0: bit b of code r of a column is bit (r * bits + b) of the column's stream."""
    words = np.zeros((-(-codes.shape[0] * bits // 32), codes.shape[1]), np.uint64)
    for r, row in enumerate(codes):
        for b in range(bits):
            at = r * bits + b
            words[at // 32] |= ((row.astype(np.uint64) >> np.uint64(b)) & np.uint64(1)) << np.uint64(at % 32)
    return words.astype(np.uint32).view(np.int32)


def gptq(codes: Array, scales: Array, zeros: Array, bits: int, v1: bool = True) -> tuple[Array, Array, Array]:
    """codes [N, K] and scales, zeros [N, groups] as GPTQ's qweight, qzeros, scales."""
    stored = stream_along_rows(zeros - v1, bits).T.copy()  # [groups, words along N]
    return stream_along_rows(codes.T, bits), stored, scales.T.copy()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("v1", [True, False])
def test_gptq(bits: int, v1: bool) -> None:
    codes, scales, zeros, expected = weight(bits)
    q = QuantizedWeight.from_gptq(*gptq(codes, scales, zeros, bits, v1), v1=v1)
    np.testing.assert_array_equal(q.dequantize(), expected)
    assert (q.dtype.name, q.group_size, q.order) == (f"u{bits}", GROUP, None)
    np.testing.assert_array_equal(q.codes, codes)


def test_gptq_in_the_order_of_activations() -> None:
    codes, scales, zeros, _ = weight(4)
    g_idx = rng().permutation(np.repeat(np.arange(K // GROUP), GROUP))
    expected = (codes - zeros[:, g_idx]).astype(np.float32) * scales[:, g_idx].astype(np.float32)
    q = QuantizedWeight.from_gptq(*gptq(codes, scales, zeros, 4), g_idx=g_idx.astype(np.int32))
    np.testing.assert_array_equal(q.dequantize(), expected)
    x = rng().standard_normal((5, K)).astype(np.float32)
    np.testing.assert_allclose(ops.linear(x, q), x @ expected.T, rtol=1e-4, atol=1e-4)
    identity = QuantizedWeight.from_gptq(*gptq(codes, scales, zeros, 4), g_idx=np.arange(K) // GROUP)
    assert identity.order is None


def test_symmetric_zeros_are_left_out() -> None:
    codes, scales, zeros, _ = weight(4)
    q = QuantizedWeight.from_gptq(*gptq(codes, scales, np.full_like(zeros, 8), 4))
    assert q.zeros is None and q.zero == 8


def awq(codes: Array) -> Array:
    """[rows, columns] as words of eight nibbles: nibble i is column ORDER[i] of eight."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for i, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def test_awq() -> None:
    codes, scales, zeros, expected = weight(4)
    q = QuantizedWeight.from_awq(awq(codes.T), awq(zeros.T), scales.T)
    np.testing.assert_array_equal(q.dequantize(), expected)


def hqq(rows: Array, bits: int) -> Array:
    """[rows, group] packed along rows: the first part of them in the highest bits."""
    if bits == 8:
        return rows.astype(np.uint8)
    per, kind = {4: 2, 2: 4, 1: 8, 3: 10}[bits], np.int32 if bits == 3 else np.uint8
    step = -(-len(rows) // per)
    padded = np.zeros((step * per, rows.shape[1]), np.int64)
    padded[: len(rows)] = rows
    packed = np.zeros((step, rows.shape[1]), np.int64)
    for i in range(per):
        packed |= padded[i * step : (i + 1) * step] << (bits * (per - 1 - i))
    return packed.astype(kind)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_hqq(bits: int) -> None:
    codes, scales, _, _ = weight(bits)
    zeros = rng().uniform(0, 1 << bits, scales.shape).astype(np.float32)
    wide = [np.repeat(x.astype(np.float32), GROUP, axis=1) for x in (zeros, scales)]
    expected = (codes.astype(np.float32) - wide[0]) * wide[1]
    packed = hqq(codes.reshape(-1, GROUP), bits)
    q = QuantizedWeight.from_hqq(
        packed, scales.reshape(-1, 1), zeros.reshape(-1, 1), shape=(N, K), bits=bits, group_size=GROUP
    )
    np.testing.assert_array_equal(q.dequantize(), expected)
    x = rng().standard_normal((3, K)).astype(np.float32)
    np.testing.assert_allclose(ops.linear(x, q), x @ expected.T, rtol=1e-3, atol=1e-3 * (1 << bits))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors(bits: int, symmetric: bool) -> None:
    codes, scales, zeros, expected = weight(bits)
    if symmetric:
        values = codes - (1 << bits - 1)
        expected = values.astype(np.float32) * np.repeat(scales.astype(np.float32), GROUP, axis=1)
    packed = stream_along_rows(codes.T, bits).T.copy()
    points = None if symmetric else stream_along_rows(zeros, bits)
    q = QuantizedWeight.from_compressed_tensors(packed, scales, np.array([N, K]), points)
    np.testing.assert_array_equal(q.dequantize(), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("points", ["none", "packed", "floats"])
def test_onnx(bits: int, points: str) -> None:
    codes, scales, zeros, expected = weight(bits)
    wide = np.repeat(scales.astype(np.float32), GROUP, axis=1)
    packed = stream_along_rows(codes.T, bits).T.copy().view(np.uint8).reshape(N, K // GROUP, -1)
    given: Any = None
    if points == "none":
        expected = (codes - (1 << bits - 1)).astype(np.float32) * wide
    elif points == "packed":
        given = stream_along_rows(zeros.T, bits).T.copy().view(np.uint8).reshape(N, -1)
        given = given[:, : -(-K // GROUP * bits // 8)].reshape(-1)
    else:
        given = zeros.astype(np.float32).reshape(-1)
    q = QuantizedWeight.from_onnx_nbits(packed, scales.reshape(-1), given, K=K, bits=bits, block_size=GROUP)
    np.testing.assert_array_equal(q.dequantize(), expected)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def test_mxfp4() -> None:
    codes, powers = rng().integers(0, 16, (N, 64)), rng().integers(110, 130, (N, 2)).astype(np.uint8)
    blocks = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    expected = E2M1[codes] * np.repeat(2.0 ** (powers.astype(np.float32) - 127), 32, axis=1)
    for given in (blocks, blocks.reshape(N, 2, 16)):
        q = QuantizedWeight.from_mxfp4(given, powers)
        np.testing.assert_array_equal(q.dequantize(), expected)
        assert (q.dtype.name, q.scale_dtype.name, q.group_size) == ("f4e2m1", "e8m0", 32)
    x = rng().standard_normal((4, 64)).astype(np.float32)
    np.testing.assert_allclose(ops.linear(x, q), x @ expected.T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("divides", [True, False])
def test_nvfp4(as_bytes: bool, divides: bool) -> None:
    codes = rng().integers(0, 16, (N, K))
    scales = rng().uniform(1, 400, (N, K // 16)).astype(ml_dtypes.float8_e4m3fn)
    whole = np.float32(0.0123)
    numbers = scales.astype(np.float32) / whole if divides else scales.astype(np.float32) * whole
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    given = scales.view(np.uint8) if as_bytes else scales
    q = QuantizedWeight.from_nvfp4(packed, given, np.array([whole]), divides=divides)
    np.testing.assert_array_equal(q.dequantize(), E2M1[codes] * np.repeat(numbers, 16, axis=1))


POSITIONS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def gguf_data(kind: str) -> tuple[Array, Array]:
    """Random blocks of a type with scales of sensible size, and what the gguf package says that they mean."""
    gguf = pytest.importorskip("gguf")
    from gguf import quants

    found = gguf.GGMLQuantizationType[kind]
    elements, size = gguf.GGML_QUANT_SIZES[found]
    blocks = rng().integers(0, 256, (8 * 512 // elements, size)).astype(np.uint8)
    positions = POSITIONS.get(kind, (0, 2) if kind.endswith("_1") else (0,))
    for at in positions if kind != "MXFP4" else ():
        d = rng().uniform(0.01, 0.1, (len(blocks), 1)).astype("<f2")
        blocks[:, at : at + 2] = d.view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = rng().integers(110, 130, len(blocks))
    data = blocks.reshape(8, -1)
    return data, quants.dequantize(data, found)


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K", "MXFP4"])
def test_gguf(kind: str) -> None:
    data, expected = gguf_data(kind)
    np.testing.assert_array_equal(QuantizedWeight.from_gguf(data, kind).dequantize(), expected)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"])
def test_gguf_with_minima(kind: str) -> None:
    data, expected = gguf_data(kind)
    q = QuantizedWeight.from_gguf(data, kind.lower())
    np.testing.assert_allclose(q.dequantize(), expected, rtol=2e-6, atol=1e-5)
    x = rng().standard_normal((3, expected.shape[1])).astype(np.float32)
    np.testing.assert_allclose(ops.linear(x, q), x @ expected.T, rtol=1e-3, atol=2e-2)


def test_groups_of_gguf_without_a_scale_are_their_minimum() -> None:
    data, _ = gguf_data("Q4_1")
    data[:, :2] = 0
    from gguf import GGMLQuantizationType, quants

    expected = quants.dequantize(data, GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(QuantizedWeight.from_gguf(data, "Q4_1").dequantize(), expected)


def test_files(tmp_path: Path) -> None:
    gguf, safe = pytest.importorskip("gguf"), pytest.importorskip("safetensors.numpy")
    data, expected = gguf_data("Q8_0")
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_tensor("blk.0.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = checkpoints.read_gguf(tmp_path / "w.gguf")
    assert list(tensors) == ["blk.0.weight"]
    np.testing.assert_array_equal(QuantizedWeight.from_gguf(*tensors["blk.0.weight"]).dequantize(), expected)
    codes, scales, zeros, dense = weight(4)
    names = ("qweight", "qzeros", "scales")
    safe.save_file(dict(zip(names, gptq(codes, scales, zeros, 4), strict=True)), tmp_path / "w.safetensors")
    held = checkpoints.read_safetensors(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(QuantizedWeight.from_gptq(*map(held.get, names)).dequantize(), dense)
    for name, read in (("w.gguf", checkpoints.read_gguf), ("w.safetensors", checkpoints.read_safetensors)):
        for cut in (20, 0):
            (tmp_path / "cut").write_bytes((tmp_path / name).read_bytes()[:cut])
            with pytest.raises(TilecError, match="that can be read"):
                read(tmp_path / "cut")


def test_dtypes_of_files(tmp_path: Path) -> None:
    """numpy has not all of them."""
    torch, safe = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    names = [
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e8m0fnu",
        "int32",
        "bool",
        "float64",
    ]
    held = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names}
    safe.save_file({**held, "none": torch.ones(0, 3), "scalar": torch.tensor(3)}, tmp_path / "w")
    found = checkpoints.read_safetensors(tmp_path / "w")
    assert found.pop("none").shape == (0, 3) and found.pop("scalar") == 3
    assert {name: str(x.dtype) for name, x in found.items()} == {name: name for name in names}
    for name, x in found.items():
        np.testing.assert_array_equal(x.astype(np.float32), held[name].float())


def test_damaged_files(tmp_path: Path) -> None:
    def written(header: str, count: int = 8) -> Path:
        (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(count))
        return tmp_path / "w"

    entry = '{"a": {"dtype": "%s", "shape": %s, "data_offsets": %s}}'
    assert checkpoints.read_safetensors(written(entry % ("F16", [2, 2], [0, 8])))["a"].shape == (2, 2)
    for held in (
        ("F16", [2, 2], [1, 9]),
        ("F16", [2, 2], [0, 6]),
        ("F16", [-2, -2], [0, 8]),
        ("F16", [4], [-8, 0]),
    ):
        with pytest.raises(TilecError, match="does not lie in bytes"):
            checkpoints.read_safetensors(written(entry % held))
    for text in (
        entry % ("C64", [1], [0, 8]),
        "[]",
        '{"a": 1}',
        '{"a": {}}',
        "{",
        entry % ("F16", 4, [0, 8]),
    ):
        with pytest.raises(TilecError, match="is no safetensors file that can be read"):
            checkpoints.read_safetensors(written(text))


def test_a_reader_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TilecError, match="needs the package gguf"):
        checkpoints.read_gguf("x")


@pytest.mark.parametrize("shuffled", [False, True])
def test_columns_that_are_no_whole_groups(shuffled: bool) -> None:
    """As of Falcon's 4,544, in groups of 128: the last is short, which g_idx says."""
    codes, scales, zeros, _ = weight(4, k=64)
    g_idx = np.arange(56) // 16
    g_idx = rng().permutation(g_idx) if shuffled else g_idx
    q = QuantizedWeight.from_gptq(*gptq(codes[:, :56], scales, zeros, 4), g_idx=g_idx)
    expected = (codes[:, :56] - zeros[:, g_idx]).astype(np.float32) * scales[:, g_idx].astype(np.float32)
    np.testing.assert_array_equal(q.dequantize(), expected)
    assert q.group_size == 16


def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch")
    codes, scales, zeros, expected = weight(4)
    held = [torch.from_numpy(x) for x in gptq(codes, scales, zeros, 4)]
    np.testing.assert_array_equal(QuantizedWeight.from_gptq(*held).dequantize(), expected)
    packed = [torch.from_numpy(awq(x.T)) for x in (codes, zeros)]
    narrow = QuantizedWeight.from_awq(*packed, held[2].bfloat16())
    assert narrow.scale_dtype.name == "bf16"


def nothing(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.uint8)


Q = QuantizedWeight


def test_words_that_came_as_wider_integers() -> None:
    codes, scales, zeros, expected = weight(4)
    wide = [x.astype(np.int64) if x.dtype == np.int32 else x for x in gptq(codes, scales, zeros, 4)]
    np.testing.assert_array_equal(QuantizedWeight.from_gptq(*wide).dequantize(), expected)
    with pytest.raises(TilecError, match="words of 32 bits, found int64 beyond them"):
        QuantizedWeight.from_gptq(wide[0] << 8, *wide[1:])


BAD: list[tuple[Any, str]] = [
    (lambda w, z, s: Q.from_gptq(w[:, :16], z, s), r"no tensors of one weight in GPTQ: qweight \[8, 16\]"),
    (lambda w, z, s: Q.from_gptq(w[None], z, s), "experts of a mixture are read one by one"),
    (lambda w, z, s: Q.from_gptq(w.astype(np.float32), z, s), "qweight are integers, found float32"),
    (lambda w, z, s: Q.from_gptq(w, z, s.astype(np.int32)), "scales are floats, found int32"),
    (lambda w, z, s: Q.from_gptq(w, z, s, np.arange(7)), "g_idx gives each of 64 columns one of 4"),
    (lambda w, z, s: Q.from_gptq(w, z, s, np.minimum(np.arange(64), 3)), "groups of different sizes"),
    (lambda w, z, s: Q.from_gptq(w, z, s, np.arange(0)), "columns one of 4 groups, found 0 from 0 to 0"),
    (lambda w, z, s: Q.from_gptq(w[:7], z[:3], s[:3]), "56 columns are not 3 groups of one size: pass g_idx"),
    (lambda w, z, s: Q.from_gptq(w, None, s), "qzeros are integers, found NoneType"),
    (lambda w, z, s: Q.from_gptq(w, z, s * np.float16(np.inf)), "finite numbers"),
    (lambda w, z, s: Q.from_hqq(np.zeros((64, 16), np.uint8), np.ones(128, np.float16), np.full(128, np.nan),
        shape=(N, K), bits=4, group_size=16), "scales and zeros are finite numbers"),
    (lambda w, z, s: Q.from_hqq(w, s, s, shape=(N, K), bits=4, group_size=None), "group_size is a number"),
    (lambda w, z, s: Q.from_hqq(w, s, s, shape=N, bits=4, group_size=16), r"shape is \[N, K\], found \[32\]"),
    (lambda w, z, s: Q.from_gguf(np.zeros((2, 18), np.uint8), None), "GGUF's type None is not read"),
    (lambda w, z, s: Q.from_onnx_nbits(np.zeros((N, 4, 8), np.uint8), s, K=K, block_size=0), "on, found 0"),
    (lambda w, z, s: Q.from_onnx_nbits(
        np.zeros((N, 4, 8), np.uint8), s, s[:3].astype(np.float32), K=K, block_size=16), "4 numbers a row"),
    (lambda w, z, s: Q.from_awq(w, z, s), "no tensors of one weight in AWQ"),
    (lambda w, z, s: Q.from_hqq(w, s, s, shape=(N, K), bits=4, group_size=16, axis=0),
     "axis=0"),
    (lambda w, z, s: Q.from_hqq(w, s, s, shape=(N, K), bits=5, group_size=16), "1, 2, 3, 4 or"),
    (lambda w, z, s: Q.from_hqq(w, s, s, shape=(N, K), bits=4, group_size=16), r"in HQQ \[32, 64\]"),
    (lambda w, z, s: Q.from_compressed_tensors(w, s, [1, 2, 3]), r"shape is \[N, K\]"),
    (lambda w, z, s: Q.from_compressed_tensors(w, s, [N, K]), "compressed-tensors"),
    (lambda w, z, s: Q.from_compressed_tensors(
        stream_along_rows(np.zeros((K, N), int), 4).T, s.T, [N, K], z[:3]), "weight_zero_point"),
    (lambda w, z, s: Q.from_onnx_nbits(np.zeros((4, 2), np.uint8), s, K=K, block_size=16), "MatMul"),
    (lambda w, z, s: Q.from_onnx_nbits(
        np.zeros((N, 4, 8), np.uint8), s[:1], K=K, block_size=16), r"MatMulNBits \[32, 64\]"),
    (lambda w, z, s: Q.from_onnx_nbits(
        np.zeros((N, 4, 8), np.uint8), s, np.zeros((N, 3), np.uint8), K=K, block_size=16), "2 bytes a row"),
    (lambda w, z, s: Q.from_mxfp4(nothing((4, 2, 15)), nothing((4, 2))), "MXFP4"),
    (lambda w, z, s: Q.from_mxfp4(
        np.zeros((4, 2, 16), np.uint8), np.full((4, 2), 255, np.uint8)), "255, which is no number"),
    (lambda w, z, s: Q.from_nvfp4(nothing((4, 8)), nothing((4, 2)), s[0, :1]), "NVFP4"),
    (lambda w, z, s: Q.from_gguf(nothing((4, 18)), "IQ4_NL"), "IQ4_NL is not read: there is Q4_0"),
    (lambda w, z, s: Q.from_gguf(nothing((4, 19)), "Q4_0"), "blocks of 18 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_weight_is_said(number: int) -> None:
    make, message = BAD[number]
    codes, scales, zeros, _ = weight(4)
    with pytest.raises(TilecError, match=message):
        make(*gptq(codes, scales, zeros, 4))


def test_layers_of_torch_keep_the_order() -> None:
    torch = pytest.importorskip("torch")
    from tilec.torch import QuantizedLinear, linear

    codes, scales, zeros, _ = weight(4)
    g_idx = rng().permutation(np.repeat(np.arange(K // GROUP), GROUP)).astype(np.int32)
    q = QuantizedWeight.from_gptq(*gptq(codes, scales, zeros, 4), g_idx=g_idx)
    layer = QuantizedLinear.from_weight(q)
    np.testing.assert_array_equal(layer.dequantize().numpy(), q.dequantize())
    x = torch.from_numpy(rng().standard_normal((3, K)).astype(np.float32))
    expected = x.numpy() @ q.dequantize().T
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(linear(x, q).numpy(), layer(x).numpy())
    a, b = torch.randn(2, K), torch.randn(N, 2)
    np.testing.assert_allclose(linear(x, q, low_rank=(a, b)), layer(x) + x @ a.T @ b.T, rtol=1e-3, atol=1e-3)
    again = QuantizedLinear(K, N, False, group_size=GROUP, zero_point=True, ordered=True)
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again(x).numpy(), layer(x).numpy())
