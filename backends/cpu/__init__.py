"""The CPU backend: native code over vectors and threads."""

if __name__ != "tilec.backends.cpu":
    raise ImportError(f"{__name__!r} is the source folder of tilec.backends.cpu: import that")
