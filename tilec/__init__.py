"""tilec: a tile-level GPU kernel language and its compiler."""

from pathlib import Path

if __name__ != "tilec":
    raise ImportError(f"tilec imported a second time, as {__name__!r}")

_here = Path(__file__).parent
if not (_here / "ir").is_dir():  # a checkout: the rooms lie beside this folder, not inside it
    __path__.append(str(_here.parent))

__version__ = "0.1.0"
