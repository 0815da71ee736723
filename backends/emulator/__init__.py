"""The emulator: PTX text run and checked on numpy."""

if __name__ != "tilec.backends.emulator":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.emulator: import that")
