"""Operators written in the language, and their array-facing functions."""

if __name__ != "tilec.ops":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ops: import that")
