// Runs a grid on one thread of the host: blocks one after another, their threads on fibers.
//
// One fiber serves thread after thread until one has to wait; so kernels that never wait run as a
// plain loop. Whatever would be undefined or hang on the device (a barrier that not all threads
// reach, lanes in different collectives, a lane that has exited) ends the launch with an error.

#include "zg_abi.h"

#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "zg_fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Shared memory: a section, which the linker brackets, or the thread-local storage of this library.
// The variable makes it exist.
static char *shared_begin, *shared_end;
#if defined(ZG_ASAN) || defined(ZG_TSAN)
static char exists __attribute__((section("zg_shared"), used));
extern "C" char __start_zg_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_zg_shared[] __attribute__((visibility("hidden")));
static void find_shared() {
    shared_begin = __start_zg_shared;
    shared_end = __stop_zg_shared;
}
#else
static thread_local volatile char exists;
static int find_in(dl_phdr_info* library, size_t, void*) {
    char* begin = (char*)library->dlpi_tls_data;
    if (!begin || &exists < begin) return 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        size_t size = library->dlpi_phdr[i].p_memsz;
        if (library->dlpi_phdr[i].p_type != PT_TLS || &exists >= begin + size) continue;
        shared_begin = begin;
        shared_end = begin + size;
        return 1;
    }
    return 0;
}
static void find_shared() {
    exists = 1;  // allocates the storage
    dl_iterate_phdr(find_in, nullptr);
}
#endif

namespace zg {

Kernel* kernels = nullptr;

constexpr int MAX_THREADS = 1024;

#if defined(ZG_TSAN)
// Those of ThreadSanitizer are few (8128) and slow to make (1 ms), so all libraries share one set:
// a static member of a template is unique in the process.
template <int> struct Shared {
    __attribute__((visibility("default"))) static void* fibers[MAX_THREADS];
};
template <int n> void* Shared<n>::fibers[MAX_THREADS];
#endif

namespace {

constexpr int MAX_GROUPS = 32;
#if defined(ZG_TSAN)
constexpr bool OWN_FIBER = true;  // memory of a stack must not pass between threads unordered
#else
constexpr bool OWN_FIBER = false;
#endif

const char* const NAMES[] = {
    "__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count",
    "__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
    "__ballot_sync", "__match_any_sync",
};

enum State : uint8_t { UNSTARTED, RUNNING, AT_BARRIER, AT_COLLECTIVE, EXITED };

struct Group {  // lanes on their way into one collective
    unsigned mask, arrived;
    Kind kind;
    int line;
};

struct Warp {
    Bits value[32], result[32];
    int operand[32], width[32];
    unsigned exists, exited;
    Group group[MAX_GROUPS];
    int groups;
    unsigned turn[32];  // of each lane: how many collectives it has passed
    char order[2];      // addresses that stand for "memory before collective" of even and odd turns
};

struct Barrier {
    Kind kind;
    int line, arrived, any, all, count, result;
    unsigned passed;
    char order[2];
};

enum Mode { FORWARD, REVERSE, RANDOM };

struct Launch {
    const Kernel* kernel;
    void** args;
    Mode mode;
    uint64_t random;
    int threads;
    bool failed;
    char message[1024];
};

Launch launch;
Fiber fibers[MAX_THREADS];
Fiber* idle[MAX_THREADS];  // parked, without a thread
int idle_count;
Fiber* fiber_of[MAX_THREADS];
uint3 position[MAX_THREADS];
State state[MAX_THREADS];
Warp warps[MAX_THREADS / 32];
Barrier barrier_state;
int order[MAX_THREADS];  // in which threads start
int started, exited, to_start, running;
int ready[MAX_THREADS], ready_head, ready_count;
char block_begins, block_ends, fences;

void acquire([[maybe_unused]] char& at) {
#if defined(ZG_TSAN)
    __tsan_acquire(&at);
#endif
}

void release([[maybe_unused]] char& at) {
#if defined(ZG_TSAN)
    __tsan_release(&at);
#endif
}

uint64_t next_random() {  // splitmix64
    uint64_t x = launch.random += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

int below(int n) { return (int)(next_random() % (unsigned)n); }

void wake(int thread) {
    state[thread] = RUNNING;
    ready[(ready_head + ready_count++) % MAX_THREADS] = thread;
}

void wake_in_order(int first, int count, unsigned mask) {
    for (int i = 0; i < count; i++) {
        int at = launch.mode == REVERSE ? count - 1 - i : i;
        if (count > 32 || mask >> at & 1) wake(first + at);
    }
}

// The thread to run next: one that waited and may go on, else one not started yet; -1 for none.
int choose() {
    int waiting = launch.threads - started;
    bool resume = ready_count > 0;
    if (launch.mode == RANDOM && ready_count) {
        int pick = below(ready_count + waiting);
        resume = pick < ready_count;
        if (resume) {
            int& a = ready[ready_head];
            int& b = ready[(ready_head + pick) % MAX_THREADS];
            int swap = a;
            a = b;
            b = swap;
        }
    }
    if (resume) {
        int thread = ready[ready_head];
        ready_head = (ready_head + 1) % MAX_THREADS;
        ready_count--;
        return thread;
    }
    return waiting ? order[started++] : -1;
}

void enter(int thread) {
    running = thread;
    threadIdx = position[thread];
}

void check_exit(int thread) {
    const Barrier& b = barrier_state;
    if (b.arrived)
        fault("this thread has exited, but %d threads wait for it in %s, line %d", b.arrived,
              NAMES[b.kind], b.line);
    Warp& warp = warps[thread / 32];
    unsigned bit = 1u << thread % 32;
    warp.exited |= bit;
    for (int i = 0; i < warp.groups; i++) {
        Group& group = warp.group[i];
        if (group.mask & bit)
            fault("lane %d has exited, but other lanes wait for it in %s, line %d, mask 0x%08x",
                  thread % 32, NAMES[group.kind], group.line, group.mask);
    }
}

Fiber& fiber_for(int thread) {
    if (fiber_of[thread]) return *fiber_of[thread];
    Fiber* fiber = OWN_FIBER ? &fibers[thread] : idle[--idle_count];
    fiber_of[thread] = fiber;
    to_start = thread;
    return *fiber;
}

// Body of every fiber: threads one after another, until another fiber has to go on.
void serve() {
    for (;;) {
        int thread = to_start;
        enter(thread);
        acquire(block_begins);
        launch.kernel->invoke(launch.args);
        release(block_ends);
        state[thread] = EXITED;
        exited++;
        check_exit(thread);
        int next = choose();
        if (next >= 0 && state[next] == UNSTARTED && !OWN_FIBER) {
            state[next] = RUNNING;
            fiber_of[next] = current;
            fiber_of[thread] = nullptr;
            to_start = next;
            continue;
        }
        fiber_of[thread] = nullptr;
        if (!OWN_FIBER) idle[idle_count++] = current;
        if (next < 0) {
            switch_to(main_fiber);
        } else {
            state[next] = RUNNING;
            Fiber& fiber = fiber_for(next);
            enter(next);
            switch_to(fiber);
        }
    }
}

// Every thread waits. All in the barrier, or all lanes in one collective, would have gone on.
[[noreturn]] void report_deadlock() {
    int thread = 0;
    while (state[thread] != AT_COLLECTIVE) thread++;
    const Group* group = warps[thread / 32].group;
    while (!(group->arrived >> thread % 32 & 1)) group++;
    const Barrier& b = barrier_state;
    fault("deadlock: lanes 0x%08x of warp %d wait in %s, line %d, mask 0x%08x, and %d threads in "
          "%s, line %d", group->arrived, thread / 32, NAMES[group->kind], group->line, group->mask,
          b.arrived, NAMES[b.kind], b.line);
}

// Suspends the running thread until it is woken.
void wait() {
    int thread = running;
    int next = choose();
    if (next == thread) return;
    if (next < 0) report_deadlock();
    state[next] = RUNNING;
    Fiber& fiber = fiber_for(next);
    enter(next);
    switch_to(fiber);
    enter(thread);
}

int source_lane(Kind kind, int lane, int operand, int width) {
    int first = lane & ~(width - 1), from = lane;
    if (kind == SHFL) return first | (operand & (width - 1));
    if (kind == SHFL_UP) from = lane - operand;
    if (kind == SHFL_DOWN) from = lane + operand;
    if (kind == SHFL_XOR) from = lane ^ operand;
    bool inside = from >= first || kind == SHFL_XOR;
    return inside && from >= 0 && from < first + width ? from : lane;
}

void finish(Warp& warp, const Group& group) {
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; lane++)
        if (group.mask >> lane & 1 && warp.value[lane]) ballot |= 1u << lane;
    for (int lane = 0; lane < 32; lane++) {
        if (!(group.mask >> lane & 1)) continue;
        if (group.kind == BALLOT) {
            warp.result[lane] = ballot;
        } else if (group.kind == MATCH_ANY) {
            warp.result[lane] = 0;
            for (int k = 0; k < 32; k++)
                if (group.mask >> k & 1 && warp.value[k] == warp.value[lane])
                    warp.result[lane] |= 1u << k;
        } else if (group.kind != SYNCWARP) {
            int from = source_lane(group.kind, lane, warp.operand[lane], warp.width[lane]);
            if (!(group.mask >> from & 1))
                fault("lane %d reads lane %d, which is not in the mask 0x%08x of %s, line %d",
                      lane, from, group.mask, NAMES[group.kind], group.line);
            warp.result[lane] = warp.value[from];
        }
    }
}

void reset_block() {
    int threads = launch.threads;
    memset(state, 0, sizeof state);
    memset(fiber_of, 0, sizeof fiber_of);
    for (int w = 0; w < (threads + 31) / 32; w++) {
        Warp& warp = warps[w];
        int left = threads - 32 * w;
        warp.exists = left >= 32 ? ~0u : (1u << left) - 1;
        warp.exited = 0;
        warp.groups = 0;
        memset(warp.turn, 0, sizeof warp.turn);
    }
    barrier_state.arrived = 0;
    barrier_state.passed = 0;
    started = exited = ready_head = ready_count = 0;
    for (int i = 0; i < threads; i++) order[i] = launch.mode == REVERSE ? threads - 1 - i : i;
    if (launch.mode == RANDOM) {
        for (int i = threads - 1; i > 0; i--) {
            int k = below(i + 1), swap = order[i];
            order[i] = order[k];
            order[k] = swap;
        }
    }
    // Volatile, so that it does not become a call of memset, which AddressSanitizer would check.
    volatile char* at = shared_begin;
    for (; (uintptr_t)at % 8 && at < shared_end; at++) *at = (char)0xa5;
    for (; at + 8 <= shared_end; at += 8) *(volatile uint64_t*)at = 0xa5a5a5a5a5a5a5a5u;
    for (; at < shared_end; at++) *at = (char)0xa5;
}

void run_block(uint64_t number) {
    blockIdx.x = (unsigned)(number % gridDim.x);
    blockIdx.y = (unsigned)(number / gridDim.x % gridDim.y);
    blockIdx.z = (unsigned)(number / gridDim.x / gridDim.y);
    reset_block();
    release(block_begins);
    int first = choose();
    state[first] = RUNNING;
    Fiber& fiber = fiber_for(first);
    enter(first);
    switch_to(fiber);
    acquire(block_ends);
}

#if defined(ZG_TSAN)
// By the main thread: a fiber made by another one would count as ordered after it.
void make_fibers() {
    for (int t = 0; t < launch.threads; t++) {
        void*& shared = Shared<0>::fibers[t];
        if (!shared) shared = __tsan_create_fiber(0);
        fibers[t].sanitizer = shared;
        if (!fibers[t].started) prepare(fibers[t]);
    }
}

// Threads that will never finish: what they did is over, and their calls never return.
void unmake_fibers() {
    for (int t = 0; t < launch.threads; t++) {
        if (state[t] == UNSTARTED || state[t] == EXITED) continue;
        __tsan_switch_to_fiber(fibers[t].sanitizer, 1);
        release(block_ends);
        __tsan_switch_to_fiber(main_fiber.sanitizer, 1);
        __tsan_destroy_fiber(fibers[t].sanitizer);
        Shared<0>::fibers[t] = nullptr;
    }
    acquire(block_ends);
}
#endif

void forget_fibers() {
    idle_count = 0;
    for (Fiber& fiber : fibers) {
        fiber.started = false;
        idle[idle_count++] = &fiber;
    }
}

void run_grid() {
    uint64_t blocks = (uint64_t)gridDim.x * gridDim.y * gridDim.z;
    bool backwards = launch.mode == REVERSE;
    uint64_t first = backwards ? blocks - 1 : 0;
    if (launch.mode == RANDOM) {  // anywhere, then either way round
        first = next_random() % blocks;
        backwards = next_random() & 1;
    }
    for (uint64_t i = 0; i < blocks && !launch.failed; i++) {
        run_block((backwards ? first + blocks - i : first + i) % blocks);
    }
}

}  // namespace

void fault(const char* format, ...) {
    va_list args;
    va_start(args, format);
    int n = snprintf(launch.message, sizeof launch.message,
                     "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", launch.kernel->name,
                     blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    vsnprintf(launch.message + n, sizeof launch.message - (size_t)n, format, args);
    va_end(args);
    launch.failed = true;
    switch_to(main_fiber);
    abort();  // nobody comes back to an abandoned fiber
}

int barrier(Kind kind, int predicate, int line) {
    Barrier& b = barrier_state;
    if (exited)
        fault("%d threads have exited before %s, line %d", exited, NAMES[kind], line);
    if (!b.arrived) {
        b.kind = kind;
        b.line = line;
        b.any = 0;
        b.all = 1;
        b.count = 0;
    } else if (b.kind != kind || b.line != line) {
        fault("divergent barriers: %d threads wait in %s, line %d, this one enters %s, line %d",
              b.arrived, NAMES[b.kind], b.line, NAMES[kind], line);
    }
    b.any |= predicate != 0;
    b.all &= predicate != 0;
    b.count += predicate != 0;
    char& memory = b.order[b.passed & 1];
    release(memory);
    if (++b.arrived == launch.threads) {
        b.result = kind == SYNCTHREADS_OR ? b.any : kind == SYNCTHREADS_AND ? b.all : b.count;
        b.arrived = 0;
        b.passed++;
        wake_in_order(0, launch.threads, ~0u);
    } else {
        state[running] = AT_BARRIER;
    }
    wait();
    acquire(memory);
    return b.result;
}

Bits collective(Kind kind, unsigned mask, Bits value, int operand, int width, int line) {
    int thread = running, lane = thread % 32;
    Warp& warp = warps[thread / 32];
    if (!(mask >> lane & 1))
        fault("lane %d is not in the mask 0x%08x of %s, line %d", lane, mask, NAMES[kind], line);
    if (mask & ~warp.exists)
        fault("the mask 0x%08x of %s, line %d, names lanes beyond the end of the block", mask,
              NAMES[kind], line);
    if (mask & warp.exited)
        fault("the mask 0x%08x of %s, line %d, names lanes 0x%08x, which have exited", mask,
              NAMES[kind], line, mask & warp.exited);
    if (width < 1 || width > 32 || (width & (width - 1)))
        fault("width %d of %s, line %d, is no power of two up to 32", width, NAMES[kind], line);
    Group* group = nullptr;
    for (int i = 0; i < warp.groups; i++) {
        Group& other = warp.group[i];
        if (!(other.mask & mask)) continue;
        if (other.mask != mask || other.kind != kind || other.line != line)
            fault("lanes of a warp diverge: some wait in %s, line %d, mask 0x%08x, lane %d enters "
                  "%s, line %d, mask 0x%08x", NAMES[other.kind], other.line, other.mask, lane,
                  NAMES[kind], line, mask);
        group = &other;
    }
    if (!group) {
        group = &warp.group[warp.groups++];
        *group = {mask, 0, kind, line};
    }
    group->arrived |= 1u << lane;
    warp.value[lane] = value;
    warp.operand[lane] = operand;
    warp.width[lane] = width;
    // Lanes may be one collective ahead of others, so each second one has an address of its own.
    char& memory = warp.order[warp.turn[lane]++ & 1];
    if (kind == SYNCWARP) release(memory);
    if (group->arrived == mask) {
        finish(warp, *group);
        *group = warp.group[--warp.groups];
        wake_in_order(thread - lane, 32, mask);
    } else {
        state[thread] = AT_COLLECTIVE;
    }
    wait();
    if (kind == SYNCWARP) acquire(memory);
    return warp.result[lane];
}

void fence() {
    acquire(fences);
    release(fences);
}

}  // namespace zg

// -- called by the loader ---------------------------------------------------------------------------

#define ZG_API extern "C" __attribute__((visibility("default")))

static zg::Kernel* find(const char* name) {
    zg::Kernel* kernel = zg::kernels;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    return kernel;
}

ZG_API const char* zg_kinds(const char* name) {
    zg::Kernel* kernel = find(name);
    return kernel ? kernel->kinds : nullptr;
}

ZG_API const char* zg_sizes(const char* name) { return find(name)->sizes; }

// Runs a grid; returns nothing, or the text of an error. The caller has checked the arguments.
ZG_API const char* zg_launch(const char* name, const unsigned* grid, const unsigned* block,
                             void** args, int mode, uint64_t seed) {
    using namespace zg;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    launch.kernel = find(name);
    launch.args = args;
    launch.mode = (Mode)mode;
    launch.random = seed;
    launch.threads = (int)(block[0] * block[1] * block[2]);
    launch.failed = false;
    for (int t = 0; t < launch.threads; t++)
        position[t] = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
    fiber_body = serve;
    find_shared();
    current = previous = &main_fiber;
    if (!idle_count) forget_fibers();
#if defined(ZG_TSAN)
    main_fiber.sanitizer = __tsan_get_current_fiber();
    make_fibers();
#endif
    run_grid();
#if defined(ZG_TSAN)
    if (launch.failed) unmake_fibers();
#endif
    if (launch.failed) forget_fibers();
    return launch.failed ? launch.message : nullptr;
}
