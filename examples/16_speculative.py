"""Speculative decoding: loops and kernels that are left early.

A small model has drafted tokens, of which a large one knows the probabilities. A block walks along the drafts
of a sequence, keeps them up to the first that chance refuses, and draws another in its place, from what the
large model gives more. `break` and `return` stand under conditions that only the running kernel knows; all
threads of a block decide alike. What comes out is distributed as if the large model had written it.
From Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023.
"""

import numpy as np

import tilec as tc


@tc.kernel
def verify(draft: tc.Array, target: tc.Array, tokens: tc.Array, chance: tc.Array, out: tc.Array, *, warps=1):
    """out [B, K + 1] of tokens [B, K], their probabilities draft [B, K, V] and target [B, K + 1, V]."""
    i, k, vocabulary = tc.blocks(tokens.shape[0]), tokens.shape[1], tc.static(draft.shape[2])
    if tokens.at(i, 0) < 0:  # a sequence that has ended
        return
    kept = 0
    for j in tc.range(k):
        token = tokens.at(i, j)
        if chance.at(i, j) * draft.at(i, j, token) >= target.at(i, j, token):
            break
        out.store((i, j), token)
        kept += 1
    weights = target[i].load((kept, 0), (1, vocabulary))
    if kept < k:
        weights = tc.maximum(weights - draft[i].load((kept, 0), (1, vocabulary)), 0.0)
    out.store((i, kept), drawn(weights, chance.at(i, k)))


def drawn(weights: tc.Tile, chance: tc.Tile) -> tc.Tile:
    """The index at which the sum of the weights so far passes a share of the whole."""
    sums = tc.scan(weights, axis=1)
    return (sums <= chance * weights.sum()).to(tc.i32).sum()


def probabilities(rng: np.random.Generator, *shape: int) -> np.ndarray:
    p = np.exp(rng.standard_normal(shape))
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(0)
    b, k, v = 1000, 4, 6
    draft, target = (np.tile(probabilities(rng, 1, n, v), (b, 1, 1)) for n in (k, k + 1))
    columns = [rng.choice(v, b, p=p / p.sum()) for p in draft[0].astype(np.float64)]
    tokens = np.stack(columns, 1).astype(np.int32)
    chance = rng.random((b, k + 1), np.float32)
    tokens[::50, 0] = -1
    verify(draft, target, tokens, chance, out := np.full((b, k + 1), -1, np.int32))

    alive = tokens[:, 0] >= 0
    p, q = (np.take_along_axis(x[:, :k], tokens[:, :, None], 2)[:, :, 0] for x in (draft, target))
    kept = np.cumprod(chance[:, :k] * p < q, axis=1).sum(1)
    np.testing.assert_array_equal((out >= 0).sum(1), np.where(alive, kept + 1, 0))
    for place in range(2):  # as if the large model had drawn them
        seen = out[alive & (kept >= place), place]
        np.testing.assert_allclose(np.bincount(seen, minlength=v) / len(seen), target[0, place], atol=0.06)
    print(f"{kept[alive].mean():.2f} of {k} drafts are kept, and one token more is drawn: "
          f"{alive.sum()} sequences grow by {(out >= 0).sum()} tokens")  # fmt: skip


if __name__ == "__main__":
    main()
