"""Which plan a convolution is computed by, for a target: by what its blocks hold, and what they multiply."""

from tilec.ir.dtype import DType
from tilec.ir.errors import TilecError
from tilec.ir.target import KIB, parse_target
from tilec.ops.fft_conv_plan import Matrices, Plan, matrices_of, of_period, plan_of
from tilec.ops.tiling import has_threads

ALGORITHMS = (None, "direct", "one pass", "three passes")
SHORT, SHORT_ON_MATRICES = 16, 128  # sequences of this length and less are multiplied with Toeplitz matrices
ON_CPU, ON_GPU = 17, 11  # bits of the longest period of one pass: its points fit the second cache, registers
SMALLEST = 5  # bits of a matrix between three passes
UNKNOWN = 99 * KIB  # shared memory of a GPU that only its driver knows: the least that any has


def is_short(length: int, dtype: DType, target: str) -> bool:
    """Whether a product with a Toeplitz matrix costs less than transforms."""
    return length <= (SHORT_ON_MATRICES if has_threads(target) and dtype.bits == 16 else SHORT)


def plan_for(
    length: int, taps: int, mode: str, dtype: DType, target: str, algorithm: str | None = None
) -> Plan | Matrices:
    """On matrix units for a u of 16 bits on a GPU, where a block has room for it; else by butterflies."""
    if algorithm != "three passes" and has_threads(target) and dtype.bits == 16:
        machine = parse_target(target).target
        found = matrices_of(length, taps, mode, machine.shared_bytes_per_block if machine else UNKNOWN)
        if found is not None:
            return found
    return butterflies(length, taps, mode, target, algorithm)


def butterflies(length: int, taps: int, mode: str, target: str, algorithm: str | None = None) -> Plan:
    """The plan of butterflies, in one pass while the period fits a block."""
    most = {None: _most(target), "one pass": 22, "three passes": SMALLEST}[algorithm]
    return plan_of(length, taps, mode, most)


def whole_period(plan: Matrices, target: str) -> Plan:
    """The butterflies that make a spectrum for matrix units, over the same period."""
    return of_period(plan.period.bit_length() - 1, _most(target))


def _most(target: str) -> int:
    return ON_GPU if has_threads(target) else ON_CPU


def check_algorithm(algorithm: str | None) -> None:
    if algorithm not in ALGORITHMS:
        raise TilecError(f"expected algorithm {', '.join(map(repr, ALGORITHMS))}, found {algorithm!r}")
