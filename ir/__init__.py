"""The IR: types, layouts, nodes. Import the modules themselves: `from tilec.ir.dtype import DType`."""

if __name__ != "tilec.ir":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ir: import that")
