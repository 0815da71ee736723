"""How depthwise convolutions are cut into blocks, per target: data for the kernels, never their meaning.

depthwise_plan(geometry, (1, 64, 56, 56), conv, f32, "cpu")       Cut(channels=1, sums=8, rows=7, ..): direct
depthwise_plan(geometry, (64, 64, 56, 56), conv, f16, "sm_80")    Bands(images=1, rows=64, groups=7, ..)
"""

from functools import lru_cache
from itertools import product
from math import gcd, prod

from tilec.ir.dtype import DType
from tilec.ir.target import parse_target
from tilec.ops.arrays import sums_in
from tilec.ops.depthwise_bands import GROUP, STEP, Bands, depth_of, seen_shape, shared_bytes
from tilec.ops.depthwise_call import Geometry
from tilec.ops.depthwise_gradients import Strip, halo
from tilec.ops.depthwise_kernel import Conv, Cut, spans
from tilec.ops.tiling import has_threads

STRAIGHT = 400  # products that are unrolled
LINES = 16  # rows of a kernel whose elements stay in registers
SUMS_DOWN = 8  # sums of a thread, under each other
SUMS_OF_VECTORS = 14  # likewise on the CPU, where sums, kernel and image have 32 registers of vectors
WARPS = 4
LONG = 64  # rows and columns of d_out that the CPU takes at a time
SUMS = 24  # tiles of sums that stay in registers
BLOCKS = 4  # that share the work, at least
FEW_BLOCKS = 8  # of one image, that are worth taller ones: these share less of what they see
DIRECT = 1.4  # instructions of the direct sum for a product; 128 lanes do one each in a clock
BAND = 3.2  # clocks' worth of them for a product of 16 elements with a band
COPYING = 12  # likewise for an element that is copied to shared memory first
AROUND, ACROSS = 48, 300  # likewise for an output, around bands; where channels lie between columns
MANY_BLOCKS = 2048  # that keep a GPU busy; more build bands anew
BANKS = 32  # words of shared memory that a warp gets at once
LEAST_ROOM = 99 * 1024  # bytes of shared memory that every GPU since sm_80 has
ROOM = 48 * 1024  # bytes of shared memory: more would leave too few blocks on a multiprocessor


@lru_cache(maxsize=1024)
def depthwise_plan(
    geometry: Geometry, shape: tuple[int, int, int, int], conv: Conv, dtype: DType, target: str
) -> Cut | Bands:
    """The schedule that costs less for images [N, C, H, W]: the direct sum, or bands."""
    found = _bands(geometry, shape, conv, target) if dtype.bits == 16 and has_threads(target) else None
    accumulator = sums_in(dtype)
    return found or depthwise_cut(geometry, shape[1] // conv.summed, conv, accumulator, target)


def _bands(geometry: Geometry, shape: tuple[int, int, int, int], conv: Conv, target: str) -> Bands | None:
    """Bands along the cheaper axis; None where there are none, or the direct sum costs less."""
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.summed > 1:
        return None
    machine = parse_target(target).target
    room = machine.shared_bytes_per_block if machine else LEAST_ROOM
    options = _options(geometry, shape[0])
    fitting = [each for each in options if shared_bytes(each.oriented(*geometry.size), each) <= room]
    best = min(fitting, key=lambda bands: _cost(geometry, bands), default=None)
    around = AROUND + (ACROSS if conv.channels_last else 0)
    if best is None or _cost(geometry, best) + around >= DIRECT * prod(geometry.size):
        return None
    (down, across), outs = best.oriented(*geometry.extents), shape[1] * conv.multiplier
    blocks = outs * -(-down // best.rows) * -(-across // (GROUP * best.groups))
    return best._replace(parts=max(1, min(-(-shape[0] // best.images), MANY_BLOCKS // blocks)))


def _options(geometry: Geometry, images: int) -> list[Bands]:
    """Bands along either axis, four warps of rows first."""
    found = []
    for turned, rows in product((False, True), (64, 32, 16)):
        groups = _evenly(-(-geometry.extents[0 if turned else 1] // GROUP), 8)
        for together in sorted({_power(images, 64 // rows), 1}, reverse=True):
            found.append(Bands(together, rows, groups, turned, warps=together * rows // 16))
    return found


def _cost(geometry: Geometry, bands: Bands) -> float:
    """Instructions for one output: products and copies; those that are made for nobody are paid too."""
    extents, size = bands.oriented(*geometry.extents), bands.oriented(*geometry.size)
    _, high, wide = seen_shape(size, bands)
    outs = bands.rows * GROUP * bands.groups
    made = _whole(extents[0], bands.rows) * _whole(extents[1], GROUP * bands.groups) / prod(extents)
    return float(made * (BAND * size[0] * depth_of(size[1]) / STEP + COPYING * high * wide / outs))


def _whole(n: int, part: int) -> int:
    return -(-n // part) * part


@lru_cache(maxsize=1024)
def depthwise_cut(geometry: Geometry, channels: int, conv: Conv, accumulator: DType, target: str) -> Cut:
    """Blocks for results of these extents."""
    threads = has_threads(target)
    cut = (_on_threads if threads else _on_vectors)(geometry, channels, conv)
    straight = threads and prod(geometry.size) * cut.sums <= STRAIGHT
    cut = cut._replace(across=straight, taps=_taps(cut, geometry, conv, straight))
    room = ROOM if threads else parse_target(target).target.shared_bytes_per_block >> 4  # type: ignore[union-attr]
    while _bytes(cut, geometry, conv, accumulator) > room and max(cut.channels, cut.rows) > 1:
        many = cut.channels > 1 and (threads or cut.rows == 1)
        cut = cut._replace(channels=cut.channels // 2) if many else cut._replace(rows=cut.rows // 2)
    taps = cut.channels * prod(geometry.size) * accumulator.bytes
    cut = cut._replace(staged=_bytes(cut, geometry, conv, accumulator) <= room, held=taps <= room // 4)
    if threads and not conv.channels_last:
        cut = cut._replace(gaps=_gaps(cut, *spans(geometry.size, conv, cut)))
    return cut


def _gaps(cut: Cut, down: tuple[int, int], across: tuple[int, int]) -> tuple[int, int, int]:
    """The least that lets the threads of a warp (columns first, then rows, then channels) meet every bank
    once.
    """
    (groups, step), (lanes, right) = down, across
    rows = max(1, min(cut.rows, BANKS // cut.columns))
    channels = max(1, min(cut.channels, BANKS // (cut.columns * rows)))
    found = []
    for more in product(range(4), range(3), range(0, 16)):
        row = (step + more[1]) * right * (lanes + more[2])
        banks = {
            (c * (groups + more[0]) * row + r * row) % BANKS for c in range(channels) for r in range(rows)
        }
        met = {(bank + x) % BANKS for bank in banks for x in range(min(cut.columns, BANKS))}
        found.append((-len(met) * (len(banks) == channels * rows), (groups + more[0]) * row, more))
    return min(found)[2]


def _bytes(cut: Cut, geometry: Geometry, conv: Conv, accumulator: DType) -> int:
    """Of the copy of what a block sees."""
    (groups, step), (lanes, right) = spans(geometry.size, conv, cut)
    return cut.channels * groups * step * lanes * right * accumulator.bytes


def _on_vectors(geometry: Geometry, channels: int, conv: Conv) -> Cut:
    """CPU: whole rows of a channel, or a vector of channels."""
    rows, columns = geometry.extents
    in_pairs = not conv.channels_last and geometry.size[0] <= SUMS_DOWN  # vectors, for which there is room
    sums = _sums(rows, SUMS_DOWN if in_pairs or conv.stride[0] > 1 else SUMS_OF_VECTORS)
    if conv.channels_last:
        c, wide, deep = min(channels, 16), _evenly(columns, 16), -(-rows // sums)
        parts = -(-channels // c) * -(-columns // wide)
        return Cut(c, sums, _evenly(deep, max(1, min(8, deep * parts // FEW_BLOCKS))), wide, 0)
    return Cut(1, sums, min(-(-rows // sums), max(1, 64 // sums)), min(columns, 256), 0)


def _on_threads(geometry: Geometry, channels: int, conv: Conv) -> Cut:
    """GPU: one output of each sum for every thread, neighbours in memory for neighbours in a warp."""
    rows, columns = geometry.extents
    sums = _sums(rows, SUMS_DOWN)
    lanes, left = _power(columns, 64), 32 * WARPS
    if conv.channels_last:
        c = _power(channels, 32)
        wide = min(_power(columns, 4), left // c)
        return Cut(c, sums, max(1, min(_power(-(-rows // sums), 4), left // (c * wide))), wide, 0)
    deep = min(_power(-(-rows // sums), 8), left // lanes)
    return Cut(min(_power(channels, 64), max(1, left // (lanes * deep))), sums, deep, lanes, 0)


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


def _taps(cut: Cut, geometry: Geometry, conv: Conv, straight: bool) -> int:
    """All rows of a small kernel; of a large one as few as start anew at the same row of a step."""
    kh, step = geometry.size[0], cut.sums * conv.stride[0]
    taps = step // gcd(step, conv.dilation[0])
    return kh if straight or kh <= LINES or taps >= kh else taps


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
    if threads:
        wide = _power(columns, 64)
        c = _power(channels, 32 if conv.channels_last else 32 * WARPS // wide)
        wide = min(_power(columns, 32 * WARPS // c), columns) if conv.channels_last else wide
        strip = Strip(c, min(rows, 8 if conv.channels_last else 64), wide, wide, down, across)
    elif conv.channels_last:
        strip = Strip(_power(channels, 16), min(rows, LONG), min(columns, LONG), 1, down, across)
    else:
        strip = Strip(1, min(rows, LONG), min(columns, LONG), min(columns, LONG), down, across)
    room = ROOM if threads else parse_target(target).target.shared_bytes_per_block >> 4  # type: ignore[union-attr]
    while _strip_bytes(strip, geometry, conv, accumulator) > room and max(strip[:3]) > 1:
        strip = _smaller(strip)
    strips = n * -(-rows // strip.rows) * -(-columns // strip.columns)
    blocks = conv.multiplier * -(-channels // strip.channels)
    return strip._replace(parts=max(1, min(strips, -(-BLOCKS // blocks))))


def _smaller(strip: Strip) -> Strip:
    """Half of it: of the rows while they are many, then of the columns, then of the channels."""
    half = [-(-each // 2) for each in strip[:3]]
    if strip.rows > 4 or strip.channels == strip.columns == 1:
        return strip._replace(rows=half[1])
    if strip.columns > 1:
        return strip._replace(columns=half[2], abreast=min(strip.abreast, half[2]))
    return strip._replace(channels=half[0])


def _strip_bytes(strip: Strip, geometry: Geometry, conv: Conv, accumulator: DType) -> int:
    """Of a strip of d_out, what it sees of x, and the sums."""
    tall, wide = halo(geometry.size, conv, strip)
    seen, given = tall * wide * conv.stride[1], (strip.rows + 2 * strip.around(conv)) * strip.columns
    taps = -(-geometry.size[0] // strip.down) * strip.down * geometry.size[1]
    return strip.channels * (seen + given + taps) * accumulator.bytes
