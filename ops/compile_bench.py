"""Operators that `tilec bench compile` compiles in processes of their own: those that people call first.

compiled("linear", "sm_80").cubin;  compiled("linear", "cpu").code
"""

import tilec as tc
from tilec import ops

OPERATORS = {
    "linear": "linear, u4, 16 rows of 4096",
    "attention": "attention, heads of 64",
    "depthwise": "depthwise conv, 7x7, 56x56",
}


def compiled(name: str, target: str) -> tc.Compiled:
    """The operator's kernel: of f16, or of f32 on the CPU."""
    kind = "f32" if target == "cpu" else "f16"
    if name == "linear":
        return ops.linear.compile(m=16, n=4096, k=4096, x=kind, weight="u4", target=target)
    if name == "attention":
        return ops.attention.compile(dim=64, dtype=kind, target=target)
    shape = (1, 64, 56, 56)
    return ops.depthwise_conv.compile(shape=shape, kernel_size=7, padding=3, dtype=kind, target=target)
