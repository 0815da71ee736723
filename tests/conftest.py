"""What every test runs under: one thread per library, settled seeds, GPU tests only where there is a GPU.

TILEC_TEST_PROFILE=all (make check-all) draws more examples and a new seed every time.
"""

import ctypes
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported: two workers share two cores

import pytest
from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("ci", max_examples=40, derandomize=True, deadline=None, suppress_health_check=SLOW)
settings.register_profile("all", max_examples=500, deadline=None, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("TILEC_TEST_PROFILE", "ci"))


def has_gpu() -> bool:
    """Whether the CUDA driver is there and sees a device."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and its driver (gpu)"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled kernels of a test run stay in a folder of its own."""
    os.environ.setdefault("TILEC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def full() -> bool:
    """Whether this run is make check-all: exhaustive where make test takes a sample."""
    return os.environ.get("TILEC_TEST_PROFILE") == "all"
