"""Machines that are less than this one: the same processor without its widest vectors.

with without_avx512(): cpu.compile(func)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from tilec.backends import llvm
from tilec.backends.cpu import program
from tilec.backends.llvm import Host

NEWER = ("avx512", "avx10", "avxvnni", "amx", "evex512")


def older(host: Host) -> Host:
    """A host with AVX2 and nothing later."""
    kept = (name for name in host.features.split(",") if not name[1:].startswith(NEWER))
    gone = (f"-{name[1:]}" for name in host.features.split(",") if name[1:].startswith(NEWER))
    return replace(host, features=",".join([*kept, *gone]), vector_bytes=32, has_avx512=False)


@contextmanager
def without_avx512() -> Iterator[None]:
    """What is compiled inside is for the older machine; it runs on this one, too."""
    host = older(llvm.host())
    kept = (program._arch, program._features, llvm._native_machine, llvm._jit)
    with patch.object(llvm, "host", lambda: host):
        for each in kept:
            each.cache_clear()
        try:
            yield
        finally:
            for each in kept:
                each.cache_clear()
