"""Calls of fft_conv, checked: what they mean, and spectra of kernels to use again."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tilec.ir.dtype import DType
from tilec.ir.dtype import dtype as find_dtype
from tilec.ir.errors import TilecError
from tilec.ops.arrays import Array, array, float_of, sums_in, told
from tilec.ops.fft_conv_plan import LONGEST, MODES, Matrices, Plan


@dataclass(frozen=True, eq=False)
class FftSpectrum:
    """What fft_conv takes for k again and again: the spectrum of [H, taps] for one length and mode."""

    values: Array
    length: int
    taps: int
    mode: str
    plan: Plan | Matrices
    norms: Array | None = None  # what the values are over, for matrix units

    @property
    def shape(self) -> tuple[int, int]:
        """Of the kernels that it was made of."""
        return int(self.values.shape[1]), self.taps


class Kernel(NamedTuple):
    """k [H, taps], and k_reverse, of which entry s acts on what comes `apart` + s later."""

    k: Array
    k_reverse: Array | None
    mode: str

    @property
    def taps(self) -> int:
        return int(max(x.shape[1] for x in (self.k, self.k_reverse) if x is not None))

    @property
    def apart(self) -> int:
        return int(self.mode == "bidirectional_safari")


class Call(NamedTuple):
    """The arrays of a call, fitting each other."""

    u: Array
    k: Kernel | FftSpectrum
    mode: str
    skip: Array | None
    pregate: Array | None
    postgate: Array | None

    @property
    def sums(self) -> DType:
        return sums_in(find_dtype(self.u.dtype))


def call_of(u: Any, k: Any, mode: str, k_reverse: Any, skip: Any, pregate: Any, postgate: Any) -> Call:
    """Raises TilecError for what does not fit."""
    x = floats(u, "u")
    if x.ndim != 3:
        raise TilecError(f"fft_conv takes u [B, H, L], of rank 3: found {list(x.shape)}")
    check_length(x.shape[2])
    if isinstance(k, FftSpectrum):
        kernel: Kernel | FftSpectrum = k
        _check_spectrum(k, x, mode, k_reverse)
    else:
        kernel = kernel_of(k, k_reverse, mode, x.shape[2])
        _check_narrower(find_dtype(kernel.k.dtype), find_dtype(x.dtype))
    if kernel_channels(kernel) != x.shape[1]:
        raise TilecError(f"k has {kernel_channels(kernel)} channels, and u {list(x.shape)} has {x.shape[1]}")
    gates = [_gate(each, name, x) for each, name in ((pregate, "pregate"), (postgate, "postgate"))]
    return Call(x, kernel, mode, _skip(skip, x.shape[1]), *gates)


def kernel_channels(kernel: Kernel | FftSpectrum) -> int:
    return int(kernel.shape[0] if isinstance(kernel, FftSpectrum) else kernel.k.shape[0])


def kernel_of(k: Any, k_reverse: Any, mode: str, length: int) -> Kernel:
    """k [H, taps] and what goes with it in this mode."""
    check_mode(mode, k_reverse)
    held = _taps(k, "k", length)
    if k_reverse is None:
        return Kernel(held, None, mode)
    reverse = _taps(k_reverse, "k_reverse", length)
    if reverse.shape[0] != held.shape[0] or reverse.dtype != held.dtype:
        raise TilecError(f"k_reverse is {told(reverse)}, expected channels and dtype of k, {told(held)}")
    return Kernel(held, reverse, mode)


def check_mode(mode: str, k_reverse: Any) -> None:
    _check_known(mode)
    both = mode.startswith("bidirectional")
    if both != (k_reverse is not None):
        what = "takes k_reverse too, the kernel of what comes later" if both else "takes no k_reverse"
        raise TilecError(f"mode {mode!r} {what}")


def _check_known(mode: str) -> None:
    if mode not in MODES:
        raise TilecError(f"expected mode {', '.join(map(repr, MODES))}, found {mode!r}")


def check_length(length: int) -> None:
    if not isinstance(length, int | np.integer) or not 1 <= length <= LONGEST:
        raise TilecError(f"fft_conv takes sequences of 1 to {LONGEST} elements, found {length!r}")


def checked_taps(taps: int | None, length: int, mode: str) -> int:
    """How many a kernel has that is compiled without arrays; None: as many as the sequence has elements."""
    _check_known(mode)
    check_length(length)
    if taps is not None and not 1 <= taps <= length:
        raise TilecError(f"expected 1 to {length} taps, as many as a sequence has elements: found {taps}")
    return length if taps is None else taps


def floats(x: Any, name: str) -> Array:
    held = array(x, name, rank=1)
    if getattr(held.dtype, "kind", "") == "c":
        raise TilecError(f"{name} is {held.dtype}, expected real numbers: convolve its parts by themselves")
    float_of(held.dtype, name)
    return held


def _taps(k: Any, name: str, length: int) -> Array:
    held = floats(k, name)
    if held.ndim != 2 or 0 in held.shape[1:]:
        raise TilecError(f"{name} is {told(held)}, expected [H, taps]")
    if held.shape[1] > length:
        raise TilecError(
            f"{name} has {held.shape[1]} taps, more than the {length} elements of a sequence: cut it, "
            f"{name}[:, :{length}]"
        )
    return held


def _check_narrower(k: DType, u: DType) -> None:
    if k != u and not (k.name == "f32" and u.bits == 16):
        raise TilecError(f"k is {k}, u {u}: expected one dtype, or an f32 k with a u of 16 bits; cast one")


def _check_spectrum(k: FftSpectrum, x: Array, mode: str, k_reverse: Any) -> None:
    if k_reverse is not None:
        raise TilecError("a spectrum has k_reverse in it already: pass it to fft_conv_spectrum")
    if k.mode != mode:
        raise TilecError(f"the spectrum was made for mode {k.mode!r}, and the call is of mode {mode!r}")
    if k.length != x.shape[2]:
        raise TilecError(f"the spectrum was made for length {k.length}, and u has length {x.shape[2]}")
    if isinstance(k.plan, Matrices) and find_dtype(x.dtype).bits != 16:
        raise TilecError(
            "the spectrum was made for matrix units and a u of 16 bits, and u is "
            f"{find_dtype(x.dtype)}: make it of a k of u's dtype"
        )
    if find_dtype(k.values.dtype) != sums_in(find_dtype(x.dtype)):
        raise TilecError(
            f"the spectrum is {find_dtype(k.values.dtype)}, and a u of {find_dtype(x.dtype)} takes one of "
            f"{sums_in(find_dtype(x.dtype))}: make it of a k of u's dtype"
        )


def _gate(gate: Any, name: str, u: Array) -> Array | None:
    if gate is None:
        return None
    held = floats(gate, name)
    if held.shape != u.shape:
        raise TilecError(f"{name} is {told(held)}, expected the shape of u, {list(u.shape)}")
    return held


def _skip(skip: Any, channels: int) -> Array | None:
    if skip is None:
        return None
    held = floats(skip, "skip")
    if held.shape != (channels,):
        raise TilecError(f"skip is {told(held)}, expected one number per channel, [{channels}]")
    return held
