// Common ground of all kernels: fixed-width types, status codes, loads from unaligned bytes.
//
// One source, two compilers: NVRTC for the device, and g++ (behind the header of tests/kernels) for
// the tests. So nothing is included here, and only what both know is used: no inline PTX, no
// cooperative groups, static shared memory, full-warp masks.

#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#define ZG_KERNEL extern "C" __global__ void

// Status of a stream; the numbers are those of nvcompStatus_t, so that there is one table.
enum : i32 {
    ZG_OK = 0,
    ZG_CORRUPT = 12,       // nvcompErrorCannotDecompress
    ZG_BAD_CHECKSUM = 13,  // nvcompErrorBadChecksum
    ZG_WRONG_SIZE = 15,    // nvcompErrorOutputBufferTooSmall: more or fewer bytes than expected
    ZG_BAD_VALUE = 100,    // a value that the codec cannot represent
};

// Number of this thread in the grid, and of all threads.
__device__ inline i64 zg_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline i64 zg_threads() { return (i64)gridDim.x * blockDim.x; }

// Little-endian loads from any address; the caller has checked the bounds.
__device__ inline u32 zg_load16(const u8* at) { return (u32)at[0] | (u32)at[1] << 8; }
__device__ inline u32 zg_load32(const u8* at) { return zg_load16(at) | zg_load16(at + 2) << 16; }
__device__ inline u64 zg_load64(const u8* at) {
    return (u64)zg_load32(at) | (u64)zg_load32(at + 4) << 32;
}
__device__ inline void zg_store32(u8* at, u32 value) {
    for (int i = 0; i < 4; i++) at[i] = (u8)(value >> 8 * i);
}
__device__ inline void zg_store64(u8* at, u64 value) {
    for (int i = 0; i < 8; i++) at[i] = (u8)(value >> 8 * i);
}
