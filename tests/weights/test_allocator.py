"""A training process keeps the pages that it has touched."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: the setting holds until its end.
SCRIPT = """
import ctypes, resource, sys
from pedigree.weights.allocator import keep_pages

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def touch():
    block = libc.malloc(100 << 20)
    ctypes.memset(block, 1, 100 << 20)
    libc.free(block)

if sys.argv[1] == "keep":
    assert keep_pages()
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    words = [sys.executable, "-c", SCRIPT, how]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_pages_are_not_given_back() -> None:
    assert faults("keep") < 100
    assert faults("leave") > 10 * 100, "the case must cost fresh pages without the setting"


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.weights import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_pages()
    assert not allocator.share_heap()
