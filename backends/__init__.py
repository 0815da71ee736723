"""How a kernel runs: LLVM, PTX, the CPU, the emulator."""

if __name__ != "tilec.backends":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends: import that")
