"""The host build of kernels: it computes as the device does, and it finds planted bugs.

A bug that the host build does not find is one that no test of a kernel can find.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import build

SCHEDULES = ["forward", "reverse", 1, 2, 3]
HEADER = '#include "zg.cuh"\n'

GOOD = """
__constant__ u32 table[4] = {10, 20, 30, 40};

ZG_KERNEL axes(u32* out) {
    u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    u32 thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    u32 threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] += threadIdx.x + 100 * threadIdx.y + 10000 * threadIdx.z;
}

ZG_KERNEL turns(u32* out, u32* counter) { out[atomicAdd(counter, 1u)] = (u32)zg_thread(); }

ZG_KERNEL turns_after_barriers(u32* out, u32* counter) {
    __syncthreads();
    out[atomicAdd(counter, 1u)] = threadIdx.x;
    __syncthreads();
    u32 first = __shfl_sync(~0u, threadIdx.x, 0);
    out[atomicAdd(counter, 1u)] = first + threadIdx.x % 32;
}

ZG_KERNEL __launch_bounds__(1024) reverse_block(u32* out, i32 rounds) {
    __shared__ u32 tile[1024];
    u32 value = threadIdx.x;
    for (i32 i = 0; i < rounds; i++) {
        tile[threadIdx.x] = value;
        __syncthreads();
        value = tile[blockDim.x - 1 - threadIdx.x] + 1;
        __syncthreads();
    }
    out[zg_thread()] = value;
}

ZG_KERNEL votes(i32* out) {
    i32 t = (i32)threadIdx.x;
    out[t] = __syncthreads_count(t % 3 == 0) + 1000 * __syncthreads_or(t == 5) +
             10000 * __syncthreads_or(t < 0) + 100000 * __syncthreads_and(t >= 0) +
             1000000 * __syncthreads_and(t != 5);
}

ZG_KERNEL lanes(u64* out, i32 operand, i32 width) {
    u64 value = (u64)threadIdx.x << 40;
    u64* at = out + threadIdx.x * 10;
    at[0] = __shfl_sync(~0u, value, operand, width);
    at[1] = __shfl_up_sync(~0u, value, (u32)operand, width);
    at[2] = __shfl_down_sync(~0u, value, (u32)operand, width);
    at[3] = __shfl_xor_sync(~0u, value, operand, width);
    at[4] = __ballot_sync(~0u, (i32)threadIdx.x % operand == 0);
    at[5] = (u64)__any_sync(~0u, threadIdx.x == 70) + 2 * (u64)__all_sync(~0u, threadIdx.x < 64);
    at[6] = __match_any_sync(~0u, threadIdx.x % 5);
    at[7] = (u64)(i64)__shfl_sync(~0u, -1, 0);
    at[8] = __double_as_longlong(__shfl_sync(~0u, (f64)threadIdx.x, operand));
    u32 half = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
    at[9] = __ballot_sync(half, threadIdx.x & 1);
}

ZG_KERNEL atomics(u32* u, i32* i, u64* w) {
    i32 t = (i32)threadIdx.x;
    atomicAdd(u, 3u); atomicMin(u + 1, (u32)t); atomicMax(u + 2, (u32)t);
    atomicOr(u + 3, 1u << t % 32); atomicAnd(u + 4, ~(1u << t % 32)); atomicXor(u + 5, (u32)t);
    u32 seen = u[6];
    while (true) {  // the longest way to add
        u32 old = atomicCAS(u + 6, seen, seen + 1);
        if (old == seen) break;
        seen = old;
    }
    atomicExch(u + 7, 9u);
    atomicAdd(i, -2); atomicMin(i + 1, -t); atomicMax(i + 2, t); atomicAdd(i + 3, 0x7fffffff);
    atomicAdd(w, 1ull << 33); atomicMax(w + 1, (u64)t << 32); atomicMin(w + 2, (u64)t << 32);
    atomicCAS(w + 3, 0ull, 7ull); atomicExch(w + 4, 1ull << 63); atomicOr(w + 5, 1ull << t % 64);
    __threadfence();
}

ZG_KERNEL bits(const u32* a, const u32* b, u64* out, i64 n) {
    for (i64 k = zg_thread(); k < n; k += zg_threads()) {
        u32 x = a[k], y = b[k];
        u64 both = (u64)y << 32 | x, *at = out + k * 16;
        at[0] = (u64)__popc(x) | (u64)__popcll(both) << 32;
        at[1] = (u64)__clz((i32)x) | (u64)__clzll((i64)both) << 32;
        at[2] = (u64)__ffs((i32)x) | (u64)__ffsll((i64)both) << 32;
        at[3] = __brev(x);
        at[4] = __brevll(both);
        at[5] = __byte_perm(x, y, 0x6172) | (u64)__byte_perm(x, y, 0x89f3) << 32;
        at[6] = __funnelshift_r(x, y, y) | (u64)__funnelshift_l(x, y, y) << 32;
        at[7] = __funnelshift_rc(x, y, y % 40) | (u64)__funnelshift_lc(x, y, y % 40) << 32;
        at[8] = __umulhi(x, y) | (u64)(u32)__mulhi((i32)x, (i32)y) << 32;
        at[9] = __umul64hi(both, ~both);
        at[10] = (u64)__mul64hi((i64)both, -5);
        at[11] = min(x, y) | (u64)(u32)max((i32)x, (i32)y) << 32;
        at[12] = __ldg(b + k) + table[x % 4];
    }
}

ZG_KERNEL conversions(const f64* in, i64* out, i64 n) {
    for (i64 k = zg_thread(); k < n; k += zg_threads()) {
        f64 x = in[k];
        i64* at = out + k * 8;
        at[0] = __double2int_rz(x);
        at[1] = __double2ll_rn(x);
        at[2] = (i64)__double2uint_rz(x);
        at[3] = (i64)__double2ull_rz(x);
        at[4] = __float2int_rz((f32)x);
        at[5] = __float2ll_rz((f32)x);
        at[6] = (i64)__float2uint_rn((f32)x);
        at[7] = __double2int_rd(x);
    }
}

struct Pair { u8 first; ulonglong2 second; };
ZG_KERNEL vectors(u64* out) {
    out[0] = alignof(uint2); out[1] = alignof(uint4); out[2] = alignof(ulonglong2);
    out[3] = sizeof(Pair); out[4] = alignof(ushort4); out[5] = make_uint4(1, 2, 3, 4).w;
}

template <int N> __device__ u32 first_of_shared() { __shared__ u32 words[N]; return words[N - 1]; }
ZG_KERNEL uninitialised(u32* out) {
    __shared__ u8 bytes[3];
    out[blockIdx.x] = first_of_shared<5>() & first_of_shared<7>();
    out[blockIdx.x] ^= bytes[2];
    bytes[2] = 1;
}

ZG_KERNEL mixed(i8 a, u16 b, i64 c, f32 d, f64 e, u64* out) {
    out[0] = (u64)(a + b + c) + (u64)(d + e);
}
"""

BUGGY = """
ZG_KERNEL racy(u32* out) {  // no barrier before the tile is written again
    __shared__ u32 tile[64];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    u32 value = tile[63 - threadIdx.x];
    tile[threadIdx.x] = value + 1;
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
ZG_KERNEL divergent(u32* out) {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
}
ZG_KERNEL half_barrier(u32* out) { if (threadIdx.x < 32) __syncthreads(); }
ZG_KERNEL early_return(u32* out) {
    if (threadIdx.x == 40) return;
    __syncthreads();
}
ZG_KERNEL early_lane(u32* out) {
    if (threadIdx.x == 40) return;
    out[threadIdx.x] = __shfl_sync(~0u, threadIdx.x, 0);
}
ZG_KERNEL first_lane_exits(u32* out) {
    if (threadIdx.x == 0) return;
    __syncwarp();
}
ZG_KERNEL different_collectives(u32* out) {
    if (threadIdx.x % 2) out[0] = __ballot_sync(~0u, 1);
    else out[0] = __shfl_sync(~0u, 1u, 0);
}
ZG_KERNEL different_masks(u32* out) { __syncwarp(threadIdx.x % 2 ? ~0u : 0x55555555u); }
ZG_KERNEL foreign_mask(u32* out) { __syncwarp(1u); }
ZG_KERNEL foreign_lane(u32* out) { out[0] = __shfl_sync(1u << threadIdx.x % 32, 1u, 0); }
ZG_KERNEL bad_width(u32* out) { out[0] = __shfl_sync(~0u, 1u, 0, 12); }
ZG_KERNEL warp_against_block(u32* out) {
    if (threadIdx.x % 32 != 3) __syncwarp();
    __syncthreads();
}
ZG_KERNEL trap(u32* out) { if (threadIdx.x == 7) __trap(); }
ZG_KERNEL fine(u32* out) { __syncthreads(); out[threadIdx.x] = __shfl_sync(~0u, threadIdx.x, 1); }
"""


@cache
def module(text):
    return build.load_text(HEADER + text, "plain")


def run(kernel, grid, block, *args, schedule="forward", text=GOOD):
    """Arrays are passed as their addresses."""
    loaded = module(text)
    loaded.schedule = schedule
    packed = tuple(np.uint64(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in args)
    loaded.get_function(kernel)(grid, block, packed)


# -- it computes as the device does --------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid, block", [((3,), (64,)), ((2, 3), (5, 7)), ((2, 1, 4), (4, 3, 5))])
def test_every_thread_of_every_block_runs_once(grid, block, schedule):
    blocks, threads = int(np.prod(grid)), int(np.prod(block))
    out = np.zeros((blocks, threads), np.uint32)
    run("axes", grid, block, out, schedule=schedule)
    x, y, z = (*block, 1, 1)[:3]
    t = np.arange(x * y * z)
    assert (out == t % x + 100 * (t // x % y) + 10000 * (t // x // y)).all()


def test_schedules_order_threads_and_blocks():
    def turns(schedule):
        out, counter = np.zeros(256, np.uint32), np.zeros(1, np.uint32)
        run("turns", (4,), (64,), out, counter, schedule=schedule)
        return out.tolist()

    assert turns("forward") == list(range(256))
    assert turns("reverse") == list(reversed(range(256)))
    assert turns(1) == turns(1) != turns(2)
    assert sorted(turns(1)) == list(range(256))

    def after_barriers(schedule):
        out, counter = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
        run("turns_after_barriers", (1,), (32,), out, counter, schedule=schedule)
        return out.tolist()

    assert after_barriers("forward") == [*range(32), *range(32)]
    assert after_barriers("reverse") == [*range(31, -1, -1), *range(31, -1, -1)]
    assert after_barriers(1)[:32] != after_barriers(1)[32:]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("threads", [1, 33, 256, 1024])
def test_barriers(threads, schedule):
    out = np.zeros((2, threads), np.uint32)
    run("reverse_block", (2,), (threads,), out, np.int32(5), schedule=schedule)
    assert (out == np.arange(threads)[::-1] + 5).all()


def test_barriers_on_other_processors():
    loaded = build.load_text(HEADER + BUGGY, "ucontext")
    out = np.zeros(64, np.uint32)
    for loaded.schedule in SCHEDULES:
        for kernel in ("early_lane", "divergent"):
            with pytest.raises(RuntimeError, match=kernel):
                loaded.get_function(kernel)((2,), (64,), (np.uint64(out.ctypes.data),))
        loaded.get_function("fine")((2,), (64,), (np.uint64(out.ctypes.data),))
        assert (out == np.repeat([1, 33], 32)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers_that_reduce(schedule):
    out = np.zeros(96, np.int32)
    run("votes", (1,), (96,), out, schedule=schedule)
    assert (out == 32 + 1000 + 100000).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("operand, width", [(1, 32), (5, 8), (17, 32), (3, 4), (31, 16), (2, 1)])
def test_warps(operand, width, schedule):
    out = np.zeros((64, 10), np.uint64)
    run("lanes", (1,), (64,), out, np.int32(operand), np.int32(width), schedule=schedule)
    for t in range(64):
        warp, lane = t - t % 32, t % 32
        first = lane // width * width
        expected = [
            first + operand % width,
            lane - operand if lane - operand >= first else lane,
            lane + operand if lane + operand < first + width else lane,
            lane ^ operand if lane ^ operand < first + width else lane,
        ]
        assert [int(v) >> 40 for v in out[t, :4]] == [warp + lane for lane in expected]
        assert out[t, 4] == sum(1 << k for k in range(32) if (warp + k) % operand == 0)
        assert out[t, 5] == 2
        assert out[t, 6] == sum(1 << k for k in range(32) if (warp + k) % 5 == t % 5)
        assert out[t, 7] == 2**64 - 1
        assert out[t, 8:9].view(np.float64) == warp + operand % 32
        assert out[t, 9] == (0xAAAA if lane < 16 else 0xAAAA0000)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_atomics(schedule):
    u = np.array([0, 99, 0, 0, 2**32 - 1, 0, 0, 0], np.uint32)
    i = np.zeros(4, np.int32)
    w = np.array([0, 0, 2**60, 0, 0, 0], np.uint64)
    run("atomics", (1,), (64,), u, i, w, schedule=schedule)
    assert u.tolist() == [192, 0, 63, 2**32 - 1, 0, 0, 64, 9]
    assert i.tolist() == [-128, -63, 63, -64]
    assert w.tolist() == [64 << 33, 63 << 32, 0, 7, 1 << 63, 2**64 - 1]


def test_bits():
    def mask(value, width=64):
        return value & ((1 << width) - 1)

    def signed(value, width):
        return value - (1 << width) if value >> (width - 1) else value

    def permuted(x, y, select):
        out = 0
        for i in range(4):
            nibble = select >> 4 * i & 15
            byte = (y << 32 | x) >> 8 * (nibble & 7) & 255
            out |= (255 * (byte >> 7) if nibble & 8 else byte) << 8 * i
        return out

    def low_bit(x):
        return (x & -x).bit_length()

    corners = [0, 1, 2**31, 2**32 - 1, 0x80FF7F01]
    values = [*corners, *np.random.default_rng(0).integers(0, 2**32, 20).tolist()]
    pairs = [(x, y) for x in values for y in values]
    a, b = (np.array(column, np.uint32) for column in zip(*pairs, strict=True))
    out = np.zeros((len(pairs), 16), np.uint64)
    run("bits", (1,), (32,), a, b, out, np.int64(len(pairs)))
    for (x, y), row in zip(pairs, out.tolist(), strict=True):
        both = y << 32 | x
        clamped = y % 40
        left = x if clamped >= 32 else mask(both << clamped >> 32, 32)
        product = signed(x, 32) * signed(y, 32) >> 32
        assert row[:13] == [
            x.bit_count() | both.bit_count() << 32,
            32 - x.bit_length() | (64 - both.bit_length()) << 32,
            low_bit(x) | low_bit(both) << 32,
            int(f"{x:032b}"[::-1], 2),
            int(f"{both:064b}"[::-1], 2),
            permuted(x, y, 0x6172) | permuted(x, y, 0x89F3) << 32,
            mask(both >> (y & 31), 32) | mask(both << (y & 31) >> 32, 32) << 32,
            mask(both >> min(clamped, 32), 32) | left << 32,
            x * y >> 32 | mask(product, 32) << 32,
            both * mask(~both) >> 64,
            mask(signed(both, 64) * -5 >> 64),
            min(x, y) | mask(max(signed(x, 32), signed(y, 32)), 32) << 32,
            mask(y + 10 * (x % 4 + 1), 32),
        ]


def test_conversions_saturate():
    x = np.array([1.5, 2.5, -1.5, 3e9, -3e9, 1e19, -1e19, 1e300, np.inf, -np.inf, np.nan])
    out = np.zeros((x.size, 8), np.int64)
    run("conversions", (1,), (32,), x, out, np.int64(x.size))
    i32, i64 = (np.iinfo(kind) for kind in (np.int32, np.int64))

    def clamp(value, low, high):
        value = float(value)
        return low if value <= low else high if value >= high else int(value)

    for value, row in zip(x[:-1], out[:-1].tolist(), strict=True):
        single = np.float32(min(max(value, -3e38), 3e38))
        assert row == [
            clamp(np.trunc(value), i32.min, i32.max),
            clamp(np.rint(value), i64.min, i64.max),
            clamp(np.trunc(value), 0, 2**32 - 1),
            np.uint64(clamp(np.trunc(value), 0, 2**64 - 1)).astype(np.int64),
            clamp(np.trunc(single), i32.min, i32.max),
            clamp(np.trunc(single), i64.min, i64.max),
            clamp(np.rint(single), 0, 2**32 - 1),
            clamp(np.floor(value), i32.min, i32.max),
        ]
    # NaN, from the table of cvt in the PTX manual
    assert out[-1].tolist() == [i32.min, i64.min, 2**31, i64.min, 0, i64.min, 0, i32.min]


def test_vectors_and_arguments():
    out = np.zeros(6, np.uint64)
    run("vectors", (1,), (1,), out)
    assert out.tolist() == [8, 16, 16, 32, 8, 4]
    args = np.int8(-1), np.uint16(3), np.int64(1 << 40), np.float32(0.5), np.float64(1.5)
    run("mixed", (1,), (1,), *args, out)
    assert out[0] == (1 << 40) + 4


# -- it finds planted bugs -------------------------------------------------------------------------


def test_uninitialised_shared_memory_is_not_zero():
    out = np.zeros(3, np.uint32)
    run("uninitialised", (3,), (1,), out)
    assert (out == 0xA5A5A5A5 ^ 0xA5).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_missing_barrier_changes_the_result(schedule):
    out = np.zeros(64, np.uint32)
    run("racy", (1,), (64,), out, schedule=schedule, text=BUGGY)
    assert (out != np.arange(64) + 1).any()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "kernel, message",
    [
        ("divergent", r"divergent barriers: \d+ threads wait in __syncthreads, line"),
        ("half_barrier", "exited"),
        ("early_return", "exited"),
        ("early_lane", "exited.*__shfl_sync|__shfl_sync.*lanes 0x00000100, which have exited"),
        (
            "different_collectives",
            "lanes of a warp diverge: .*(__ballot_sync.*__shfl|__shfl.*__ball)",
        ),
        ("different_masks", "lanes of a warp diverge|is not in the mask"),
        ("foreign_mask", "lane [0-9]+ is not in the mask 0x00000001 of __syncwarp"),
        ("foreign_lane", "reads lane 0, which is not in the mask"),
        ("bad_width", "width 12"),
        ("warp_against_block", "deadlock: lanes 0xfffffff7 of warp . wait in __syncwarp"),
        ("trap", "__trap"),
    ],
)
def test_divergence_is_an_error(kernel, message, schedule):
    out = np.zeros(64, np.uint32)
    with pytest.raises(RuntimeError, match=f"kernel {kernel}, block .*{message}"):
        run(kernel, (2,), (64,), out, schedule=schedule, text=BUGGY)
    run("fine", (1,), (64,), out, schedule=schedule, text=BUGGY)  # the module goes on working
    assert (out == np.repeat([1, 33], 32)).all()


def test_lanes_that_have_exited_or_exit_later():
    out = np.zeros(64, np.uint32)
    with pytest.raises(
        RuntimeError, match=r"__syncwarp.*names lanes 0x00000001, which have exited"
    ):
        run("first_lane_exits", (1,), (64,), out, schedule="forward", text=BUGGY)
    with pytest.raises(RuntimeError, match=r"lane 0 has exited, but other lanes wait.*__syncwarp"):
        run("first_lane_exits", (1,), (64,), out, schedule="reverse", text=BUGGY)


def test_masks_do_not_name_lanes_beyond_the_block():
    with pytest.raises(RuntimeError, match="beyond the end of the block"):
        run("fine", (1,), (48,), np.zeros(64, np.uint32), text=BUGGY)


def test_launches_are_checked():
    out = np.zeros(64, np.uint32)
    pointer = np.uint64(out.ctypes.data)
    kernel = module(BUGGY).get_function("fine")
    for wrong in [(), (pointer, pointer)]:
        with pytest.raises(TypeError, match="1 arguments are declared"):
            kernel((1,), (32,), wrong)
    for wrong in [out, int(pointer), np.int64(pointer), np.uint32(1), np.float64(0)]:
        with pytest.raises(TypeError, match=r"argument 0 is declared as a pointer \(uint64\)"):
            kernel((1,), (32,), (wrong,))
    scalars = [np.int8(0), np.uint16(0), np.int64(0), np.float32(0), np.float64(0), pointer]
    for i, (scalar, wrong) in enumerate(zip(scalars, "u1 i2 u8 f8 f4 i8".split(), strict=True)):
        args = [*scalars[:i], scalar.astype(wrong), *scalars[i + 1 :]]
        with pytest.raises(TypeError, match=f"argument {i} is declared"):
            module(GOOD).get_function("mixed")((1,), (1,), args)
    for grid, block in [((0,), (32,)), ((), (32,)), ((1, 65536), (32,)), ((1,), (1025,)),
                        ((1,), (64, 32)), ((1,), (1, 1, 65)), ((1, 1, 1, 1), (1,))]:  # fmt: skip
        with pytest.raises(RuntimeError):
            kernel(grid, block, (pointer,))
    with pytest.raises(RuntimeError, match="dynamic shared memory"):
        kernel((1,), (32,), (pointer,), 16)
    with pytest.raises(RuntimeError, match="no kernel is called 'none'"):
        module(BUGGY).get_function("none")


# -- building --------------------------------------------------------------------------------------


def test_parallel_runs_build_once(tmp_path):
    script = """
from tests.kernels import build
build.load_text('#include "zg.cuh"\\nZG_KERNEL k(u8* out) { out[0] = 1; }').get_function("k")
"""
    root = Path(__file__).parent.parent.parent
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    runs = [subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environ)
            for _ in range(2)]  # fmt: skip
    assert [run.wait() for run in runs] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix) == [
        ".cpp", ".cu", ".o", ".so",
    ]  # fmt: skip


def test_errors_of_the_compiler_are_shown():
    with pytest.raises(RuntimeError, match="missing_name"):
        build.load_text(HEADER + "ZG_KERNEL k(u8* out) { out[0] = missing_name; }", "plain")


def test_nothing_is_skipped_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="reason"):
        build.give_up("reason")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="reason"):
        build.give_up("reason")


def test_examples_are_scaled(monkeypatch):
    monkeypatch.delenv("ZG_KERNEL_EXAMPLES", raising=False)
    assert build.examples(40) == 40
    monkeypatch.setenv("ZG_KERNEL_EXAMPLES", "0.1")
    assert [build.examples(n) for n in (40, 4, 1)] == [4, 1, 1]
