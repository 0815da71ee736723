"""Boards: what one can do in a second, as data.

    rates("H200").dram == 4800                          # GB/s
    rates("H200").tensor_tflops("f16") == 989.4
Numbers are those of NVIDIA's data sheets, dense, at the clock that they state. Only L2's rates are none of
theirs: the A100's is its white paper's, less what benchmarks of it lack; the others' are what those found.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches

from tilec.ir.errors import TilecError


@dataclass(frozen=True)
class Rates:
    """Peaks of one board: `sms`, `clock` in GHz, `dram` and `l2` in GB/s, `tensor` in TFLOP/s by operand
    dtype. `target` is what code is compiled for."""

    board: str
    target: str
    sms: int
    clock: float
    dram: float
    l2: float
    f32_lanes: int  # fused multiply-adds of one SM in one clock
    tensor: tuple[tuple[str, float], ...]

    @property
    def f32(self) -> float:
        """TFLOP/s of f32 outside the tensor cores."""
        return self.sms * self.f32_lanes * 2 * self.clock / 1000

    def tensor_tflops(self, dtype: str) -> float | None:
        """Peak of the matrix units on operands of this dtype, f32 (or i32) accumulators; None: not stated."""
        return dict(self.tensor).get(dtype)


def _tensor(f16: float, tf32: float, i8: float = 0, f8: float = 0) -> tuple[tuple[str, float], ...]:
    peaks = {"f16": f16, "bf16": f16, "tf32": tf32, "i8": i8, "u8": i8, "f8e4m3": f8, "f8e5m2": f8}
    return tuple((dtype, peak) for dtype, peak in peaks.items() if peak)


_HOPPER = _tensor(f16=989.4, tf32=494.7, i8=1978.9, f8=1978.9)
BOARDS = {
    "A100": Rates("A100 SXM 80GB", "sm_80", 108, 1.41, 2039, 5000, 64, _tensor(f16=312, tf32=156, i8=624)),
    "A10": Rates("A10", "sm_86", 72, 1.695, 600, 2000, 128, _tensor(f16=125, tf32=62.5, i8=250)),
    "RTX 3090": Rates("RTX 3090", "sm_86", 82, 1.695, 936, 2500, 128, _tensor(f16=71, tf32=35.6, i8=284)),
    "L40S": Rates(
        "L40S", "sm_89", 142, 2.52, 864, 5000, 128, _tensor(f16=362.1, tf32=183.2, i8=733, f8=733)
    ),
    "RTX 4090": Rates(
        "RTX 4090", "sm_89", 128, 2.52, 1008, 5000, 128, _tensor(f16=165.2, tf32=82.6, i8=660.6, f8=330.3)
    ),
    "H100": Rates("H100 SXM", "sm_90a", 132, 1.83, 3352, 5700, 128, _HOPPER),
    "H200": Rates("H200 SXM", "sm_90a", 132, 1.83, 4800, 5700, 128, _HOPPER),
    "B200": Rates(
        "B200", "sm_100a", 148, 1.965, 8000, 10000, 128, _tensor(f16=2250, tf32=1100, i8=4500, f8=4500)
    ),
    "RTX 5090": Rates(
        "RTX 5090", "sm_120", 170, 2.407, 1792, 6500, 128, _tensor(f16=209.5, tf32=104.8, i8=838, f8=419)
    ),
}


def rates(name: str) -> Rates:
    """The board of this name, in any case; TilecError names those that are known."""
    found = {key.lower(): board for key, board in BOARDS.items()}.get(name.lower())
    if found is None:
        near = get_close_matches(name.upper(), BOARDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TilecError(f"no device {name!r} is known: expected one of {', '.join(BOARDS)}{hint}")
    return found


def rates_of(name: str, like: Rates, sms: int, clock: float, dram: float) -> Rates:
    """Those of a GPU that its driver calls `name`: a board of the table if it is one, else `like`, scaled to
    what the driver counts (0: it does not say)."""
    words = name.lower()
    same = [board for key, board in BOARDS.items() if key.lower() in words.replace("-", " ").split()]
    same += [board for key, board in BOARDS.items() if " " in key and key.lower() in words]
    near = next((board for board in same if board.target == like.target), like)
    if near.sms == sms and near in same:
        return near
    sms, clock, dram = sms or near.sms, clock or near.clock, dram or near.dram
    scale = sms * clock / (near.sms * near.clock)
    tensor = tuple((dtype, peak * scale) for dtype, peak in near.tensor)
    return replace(near, board=name, sms=sms, clock=clock, dram=dram, l2=near.l2 * scale, tensor=tensor)
