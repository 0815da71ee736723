"""Passes: functions from Func to Func."""

if __name__ != "tilec.ir.passes":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir.passes: import that")
