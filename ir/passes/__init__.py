"""The passes: from what a kernel says to what a target runs, one file a pass."""

if __name__ != "tilec.ir.passes":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir.passes: import that")
