"""The sanitizers find planted bugs, and find nothing in the tests of the kernels.

The tests of the kernels run again, in a process of its own for each sanitizer, with fewer cases and
examples: ``ZG_KERNEL_EXAMPLES`` is the share of those of a usual run, 0.05 if not set.
"""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from tests.kernels import build

BUGGY = """
#include "zg.cuh"

ZG_KERNEL past_the_end(u32* out) { out[threadIdx.x + 1] = 1; }
ZG_KERNEL past_shared(u32* out) {
    __shared__ u32 tile[40], other[40];
    for (u32 i = threadIdx.x; i < 40; i += 32) tile[i] = other[i] = i;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x + 9];
}
__noinline__ __device__ u32 load(const u32* at) { return *at; }
ZG_KERNEL past_shared_by_pointer(u32* out) {
    __shared__ u32 tile[40];
    for (u32 i = threadIdx.x; i < 40; i += 32) tile[i] = i;
    out[threadIdx.x] = load(tile + threadIdx.x + 9);
}
ZG_KERNEL misaligned(u32* out) { *(u64*)((u8*)out + 4) = 1; }
ZG_KERNEL shifted(u32* out) { out[0] = 1u << (threadIdx.x + 1); }
ZG_KERNEL no_syncwarp(u32* out) {  // a shuffle orders no memory
    __shared__ u32 tile[32];
    tile[threadIdx.x] = threadIdx.x;
    u32 one = __shfl_sync(~0u, 1u, 0);
    out[threadIdx.x] = tile[31 - threadIdx.x] + one;
}
ZG_KERNEL no_syncthreads(u32* out) {
    __shared__ u32 sum;
    if (threadIdx.x == 0) sum = 5;
    out[threadIdx.x] = sum;
}
ZG_KERNEL plain_sum(u32* out) { out[0] += threadIdx.x; }
ZG_KERNEL early_lane(u32* out) {
    out[63 - threadIdx.x] = 1;
    if (threadIdx.x == 40) return;
    out[63 - threadIdx.x] = __shfl_sync(~0u, threadIdx.x, 0);
}
ZG_KERNEL early_return(u32* out) {
    u32 local[7];
    for (u32 i = 0; i < 7; i++) local[i] = out[threadIdx.x] + i;
    if (threadIdx.x == 40) return;
    __syncthreads();
    out[threadIdx.x] = local[threadIdx.x % 7];
}
ZG_KERNEL trap(u32* out) { if (threadIdx.x == 7) __trap(); }
ZG_KERNEL good(u32* out) {
    __shared__ u32 tile[64], sum;
    u32 local[40];
    for (u32 i = 0; i < 40; i++) local[i] = out[threadIdx.x] + i;
    for (u32 round = 0; round < 3; round++) {
        tile[threadIdx.x] = threadIdx.x;
        if (threadIdx.x == 0) sum = 0;
        __syncthreads();
        u32 other = tile[threadIdx.x ^ 31];
        __syncwarp();
        tile[threadIdx.x] = other;
        __syncwarp();
        atomicAdd(&sum, tile[threadIdx.x ^ 31]);
        __syncthreads();
        out[threadIdx.x] = sum + local[sum % 40] - local[sum % 40];
        __syncthreads();
    }
}
"""


SANITIZED = [
    ("asan", "past_the_end", "heap-buffer-overflow"),
    ("asan", "past_shared", "index 40 out of bounds"),
    ("asan", "past_shared_by_pointer", "global-buffer-overflow"),
    ("asan", "misaligned", "store to misaligned address"),
    ("asan", "shifted", "shift exponent 32 is too large"),
    ("asan", "good", None),
    ("tsan", "no_syncwarp", "data race"),
    ("tsan", "no_syncthreads", "data race"),
    ("tsan", "plain_sum", "data race"),
    ("tsan", "good", None),
]
SCRIPT = """
import os, sys
import numpy as np
from tests.kernels import build

module = build.load_text(sys.argv[1])

def run(kernel, threads, schedule, out=None):
    if out is None:
        out = np.zeros(threads, np.uint32)
    module.schedule = schedule
    module.get_function(kernel)((2,), (threads,), (np.uint64(out.ctypes.data),))

for kernel in sys.argv[2:]:
    print("begin", kernel, flush=True)
    child = os.fork()
    if not child:
        for schedule in ("forward", 1):
            run(kernel, 32, schedule)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("end", kernel, code, flush=True)

out = np.zeros(64, np.uint32)  # what an aborted launch wrote is no race with what comes after it
for schedule in ("forward", "reverse", 1) * 3:
    for kernel in ("early_lane", "early_return", "good", "trap", "good"):
        try:
            run(kernel, 64, schedule, out)
        except RuntimeError:
            assert kernel != "good"
        else:
            assert kernel == "good"
print("survived")
"""


@cache
def sanitized(variant):
    """Exit code and report of each kernel, run in a process of its own, and all output."""
    kernels = [kernel for name, kernel, _ in SANITIZED if name == variant]
    code, text = build.run_sanitized(variant, ["-c", SCRIPT, BUGGY, *kernels])
    found = {}
    for kernel in kernels:
        report = re.search(rf"begin {kernel}\n(.*)end {kernel} (-?\d+)\n", text, re.DOTALL)
        assert report, text
        found[kernel] = int(report[2]), report[1]
    return code, text, found


@pytest.mark.parametrize("variant, kernel, expected", SANITIZED)
def test_sanitizers_report(variant, kernel, expected):
    code, report = sanitized(variant)[2][kernel]
    if expected is None:
        assert (code, report) == (0, "")
    else:
        assert code != 0 and expected in report, report
        assert re.search(rf"\b{kernel}\b", report), report  # where it happened


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_sanitizers_survive_aborted_launches(variant):
    code, text, _ = sanitized(variant)
    assert code == 0 and "survived" in text, text


# -- the tests of the kernels ---------------------------------------------------------------------

HERE = Path(__file__).parent
ELSEWHERE = {"test_compile.py", "test_sanitizers.py", "test_shim.py"}


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_kernels_are_clean(variant):
    files = sorted(str(path) for path in HERE.glob("test_*.py") if path.name not in ELSEWHERE)
    assert files
    code, text = build.run_sanitized(
        variant,
        # Reports go to the standard error of the process, not to that of Python.
        ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys",
         "-m", "not slow and not gpu and not peer", *files],
        ZG_KERNEL_EXAMPLES=os.environ.get("ZG_KERNEL_EXAMPLES", "0.05"),
        HYPOTHESIS_PROFILE="quick",
    )  # fmt: skip
    assert code == 0, text[-20000:]
