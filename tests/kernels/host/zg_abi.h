// What kernels (zg_host.h) and the scheduler (zg_runtime.cpp) share.
//
// The two are compiled apart, because only kernels may be instrumented by sanitizers.

#pragma once

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

// Those of the running thread. The runtime writes them at every switch, so they cannot be const.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace zg {

typedef unsigned long long Bits;  // a value of up to eight bytes on its way between lanes

enum Kind {
    SYNCTHREADS, SYNCTHREADS_OR, SYNCTHREADS_AND, SYNCTHREADS_COUNT,
    SYNCWARP, SHFL, SHFL_UP, SHFL_DOWN, SHFL_XOR, BALLOT, MATCH_ANY
};

// Waits for all threads of the block; returns the reduction of `predicate`.
int barrier(Kind kind, int predicate, int line);

// Waits for the lanes of `mask`; returns what this lane receives.
Bits collective(Kind kind, unsigned mask, Bits value, int operand, int width, int line);

// Orders memory as __threadfence does; tells the race detector only.
void fence();

// Ends the launch with an error.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A kernel as the loader sees it: one character per argument, kinds of "pfiu", sizes in bytes.
struct Kernel {
    const char* name;
    const char* kinds;
    const char* sizes;
    void (*invoke)(void** args);
    Kernel* next;
};
extern Kernel* kernels;

}  // namespace zg
