"""The instructions: each with its type rule, its meaning in numpy and its effects."""

if __name__ != "tilec.ir.inst":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir.inst: import that")
