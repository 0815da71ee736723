"""`tilec bench neighborhood`: neighborhood attention on this CPU, beside torch and NATTEN where they are.

for line in table(runs=5): print(line)
All take turns in one run, f32, batch 1 (tilec.ops.beside).
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from tilec.ops.beside import Call, compared
from tilec.ops.neighborhood import neighborhood_attention


class Problem(NamedTuple):
    """query, key and value [1, *extents, heads, dim]."""

    extents: tuple[int, ...]
    window: int
    heads: int = 4
    dim: int = 32

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.extents))}, window {self.window}, {self.heads} heads of {self.dim}"


PROBLEMS = (Problem((56, 56), 7), Problem((4096,), 255))


def table(runs: int) -> Iterator[str]:
    """For each problem a block of lines: milliseconds, ratio to ours."""
    for problem in PROBLEMS:
        yield from compare(problem, runs)


def compare(problem: Problem, runs: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    shape = (1, *problem.extents, problem.heads, problem.dim)
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    calls: dict[str, Call] = {"tilec": lambda: neighborhood_attention(q, k, v, problem.window)}
    yield from compared(problem.name, calls, _peers(problem, q, k, v), runs, "torch, natten")


def _peers(problem: Problem, q: Any, k: Any, v: Any) -> Iterator[tuple[str, Call]]:
    if find_spec("torch") is None:
        return
    torch: Any = import_module("torch")
    held = [torch.from_numpy(x) for x in (q, k, v)]
    flat = [x.reshape(1, -1, problem.heads, problem.dim).transpose(1, 2) for x in held]
    see = _visible(torch, problem)
    places = torch.arange(flat[0].shape[2])
    mask = torch.zeros(len(places), len(places)).masked_fill(
        ~see(places[:, None], places[None, :]), -torch.inf
    )
    dense = torch.nn.functional.scaled_dot_product_attention
    yield f"torch {torch.__version__} SDPA, float mask", lambda: dense(*flat, attn_mask=mask).transpose(1, 2)
    try:
        yield f"torch {torch.__version__} FlexAttention, compiled", _flex(torch, flat, see)
    except Exception as error:  # without a C++ compiler, or on a machine that it does not know
        print(f"FlexAttention does not compile here: {type(error).__name__}")
    if find_spec("natten") is None:
        return
    natten: Any = import_module("natten")
    theirs = getattr(natten, f"na{len(problem.extents)}d")
    yield f"natten {natten.__version__}", lambda: theirs(*held, kernel_size=problem.window)


def _flex(torch: Any, flat: list[Any], see: Callable[[Any, Any], Any]) -> Call:
    module: Any = import_module("torch.nn.attention.flex_attention")
    length = flat[0].shape[2]
    block_mask = module.create_block_mask(
        lambda b, h, i, j: see(i, j), None, None, length, length, device="cpu", BLOCK_SIZE=64
    )
    compiled = torch.compile(module.flex_attention)
    compiled(*flat, block_mask=block_mask)
    return lambda: compiled(*flat, block_mask=block_mask).transpose(1, 2)


def _visible(torch: Any, problem: Problem) -> Callable[[Any, Any], Any]:
    """Whether token i sees token j, for torch's integers."""

    def axis(p: Any, j: Any, n: int) -> Any:
        first = torch.clamp(p - problem.window // 2, 0, n - problem.window)
        return (j >= first) & (j < first + problem.window)

    def see(i: Any, j: Any) -> Any:
        seen: Any = True
        for n in reversed(problem.extents):
            seen = axis(i % n, j % n, n) & seen
            i, j = i // n, j // n
        return seen

    return see
