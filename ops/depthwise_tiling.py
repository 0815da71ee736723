"""How depthwise convolutions are cut into blocks, per target: data for the kernel, never its meaning.

depthwise_cut(geometry, channels=64, conv, f32, "cpu")     Cut(channels=1, sums=8, rows=7, columns=56, taps=7)
"""

from functools import lru_cache
from math import gcd, prod

from tilec.ir.dtype import DType
from tilec.ir.target import parse_target
from tilec.ops.depthwise_call import Geometry
from tilec.ops.depthwise_gradients import Strip, halo
from tilec.ops.depthwise_kernel import Conv, Cut, spans
from tilec.ops.tiling import has_threads

STRAIGHT = 400  # products that are unrolled
LINES = 16  # rows of a kernel whose elements stay in a CPU's registers
WARPS = 4
SUMS = 24  # tiles of sums that stay in registers
BLOCKS = 4  # that share the work, at least
ROOM = 48 * 1024  # bytes of shared memory: more would leave too few blocks on a multiprocessor


@lru_cache(maxsize=1024)
def depthwise_cut(geometry: Geometry, channels: int, conv: Conv, accumulator: DType, target: str) -> Cut:
    """Blocks for results of these extents."""
    threads = has_threads(target)
    cut = (_on_threads if threads else _on_vectors)(geometry, channels, conv)
    cut = _unrolled(cut, geometry, conv, STRAIGHT // geometry.size[1] if threads else LINES * cut.sums)
    cut = cut._replace(across=threads)
    room = ROOM if threads else parse_target(target).target.shared_bytes_per_block >> 4  # type: ignore[union-attr]
    while threads and _bytes(cut, geometry, conv, accumulator) > room and max(cut.channels, cut.rows) > 1:
        many = cut.channels > 1
        cut = cut._replace(channels=cut.channels // 2) if many else cut._replace(rows=cut.rows // 2)
    taps = cut.channels * prod(geometry.size) * accumulator.bytes
    return cut._replace(staged=_bytes(cut, geometry, conv, accumulator) <= room, held=taps <= room // 4)


def _bytes(cut: Cut, geometry: Geometry, conv: Conv, accumulator: DType) -> int:
    """Of the copy of what a block sees."""
    (groups, step), (lanes, right) = spans(geometry.size, conv, cut)
    return cut.channels * groups * step * lanes * right * accumulator.bytes


def _on_vectors(geometry: Geometry, channels: int, conv: Conv) -> Cut:
    """CPU: whole rows of a channel, or a vector of channels."""
    rows, columns = geometry.extents
    sums = _sums(rows, 8)
    if conv.channels_last:
        return Cut(32 if channels % 32 == 0 else min(channels, 16), sums, 1, _evenly(columns, 32), 0)
    return Cut(1, sums, min(-(-rows // sums), max(1, 64 // sums)), min(columns, 256), 0)


def _on_threads(geometry: Geometry, channels: int, conv: Conv) -> Cut:
    """GPU: one output of each sum for every thread, neighbours in memory for neighbours in a warp."""
    rows, columns = geometry.extents
    sums = _sums(rows, _most(geometry))
    lanes, left = _power(columns, 64), 32 * WARPS
    if conv.channels_last:
        c = _power(channels, 32)
        wide = min(_power(columns, 4), left // c)
        return Cut(c, sums, max(1, min(_power(-(-rows // sums), 4), left // (c * wide))), wide, 0)
    deep = min(_power(-(-rows // sums), 8), left // lanes)
    return Cut(min(_power(channels, 64), max(1, left // (lanes * deep))), sums, deep, lanes, 0)


def _most(geometry: Geometry) -> int:
    """Sums under each other: as many as keep short what is unrolled."""
    kh, kw = geometry.size
    return 8 if kh * kw * 8 <= STRAIGHT else 4 if kw <= 32 else 2


def _sums(rows: int, most: int) -> int:
    """So many rows under each other that the fewest stick out; more rather than fewer."""
    return min(
        range(min(rows, most), max(0, min(rows, most) // 2 - 1), -1), key=lambda k: (-(-rows // k) * k, -k)
    )


def _evenly(n: int, most: int) -> int:
    """Parts of at most so many that are as equal as can be."""
    return -(-n // -(-n // most))


def _power(n: int, most: int) -> int:
    """The power of two that is as large as n, at most `most`."""
    return int(min(most, 1 << max(0, n - 1).bit_length()))


def _unrolled(cut: Cut, geometry: Geometry, conv: Conv, most: int) -> Cut:
    """All rows of a small kernel: at most so many products of a column; of a large one as few as start anew
    at the same row of a step.
    """
    kh = geometry.size[0]
    step = cut.sums * conv.stride[0]
    taps = step // gcd(step, conv.dilation[0])
    whole = kh * cut.sums <= most or taps >= kh
    return cut._replace(taps=kh if whole else taps)


@lru_cache(maxsize=1024)
def depthwise_strip(
    geometry: Geometry, shape: tuple[int, int, int, int], conv: Conv, accumulator: DType, target: str
) -> Strip:
    """Strips of the weight's gradient, for images [N, C, H, W]."""
    threads = has_threads(target)
    (rows, columns), (kh, kw), (n, channels) = geometry.extents, geometry.size, shape[:2]
    across = -(-kw // -(-kw // 8))
    down = min(kh, max(1, SUMS // across))
    down = -(-kh // -(-kh // down))
    if conv.channels_last:
        c = _power(channels, 32 if threads else 16)
        strip = Strip(
            c, min(rows, 8), min(_power(columns, 32 * WARPS // c) if threads else 1, columns), down, across, 1
        )
    else:
        wide = _power(columns, 64) if threads else min(columns, 64)
        strip = Strip(
            _power(channels, 32 * WARPS // wide) if threads else 1, min(rows, 64), wide, down, across, 1
        )
    room = ROOM if threads else parse_target(target).target.shared_bytes_per_block >> 4  # type: ignore[union-attr]
    while _strip_bytes(strip, geometry, conv, accumulator) > room and max(strip.rows, strip.columns) > 1:
        taller = strip.rows > 4 or strip.columns == 1
        strip = (
            strip._replace(rows=-(-strip.rows // 2))
            if taller
            else strip._replace(columns=-(-strip.columns // 2))
        )
    strips = n * -(-rows // strip.rows) * -(-columns // strip.columns)
    blocks = conv.multiplier * -(-channels // strip.channels)
    return strip._replace(parts=max(1, min(strips, -(-BLOCKS // blocks))))


def _strip_bytes(strip: Strip, geometry: Geometry, conv: Conv, accumulator: DType) -> int:
    """Of a strip of d_out, what it sees of x, and the sums."""
    tall, wide = halo(geometry.size, conv, strip)
    seen, given = tall * wide * conv.stride[1], strip.rows * strip.columns
    taps = -(-geometry.size[0] // strip.down) * strip.down * geometry.size[1]
    return strip.channels * (seen + given + taps) * accumulator.bytes
