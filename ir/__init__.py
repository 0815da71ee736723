"""What a kernel is and means, and what a target can do."""

if __name__ != "tilec.ir":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir: import that")
