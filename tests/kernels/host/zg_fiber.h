// Fibers: stacks to switch between, and what AddressSanitizer and ThreadSanitizer are told of it.
//
// The functions of this file know nothing of threads, warps and barriers.

#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(ZG_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#elif defined(ZG_TSAN)
extern "C" void* __tsan_get_current_fiber();
extern "C" void* __tsan_create_fiber(unsigned flags);
extern "C" void __tsan_destroy_fiber(void*);
extern "C" void __tsan_switch_to_fiber(void*, unsigned flags);
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#endif

// zg_swap stores the callee-saved registers on the stack, puts the stack pointer into *save, and
// continues where the stack `to` was left.
#if defined(ZG_UCONTEXT)
#include <ucontext.h>  // chosen by a test
#elif defined(__x86_64__)
#define ZG_ASSEMBLY 1
#define ZG_SAVED 6  // words that zg_swap stores below the return address
asm(R"(
    .text
    .p2align 4
    .type zg_swap, @function
zg_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size zg_swap, .-zg_swap
)");
#elif defined(__aarch64__)
#define ZG_ASSEMBLY 1
asm(R"(
    .text
    .p2align 4
    .type zg_swap, %function
zg_swap:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size zg_swap, .-zg_swap
)");
#else
#include <ucontext.h>
#endif
#if defined(ZG_ASSEMBLY)
extern "C" void zg_swap(void** save, void* to);
#endif

namespace zg {

constexpr size_t STACK = 256 << 10, GUARD = 64 << 10;  // the guard suits pages of 4 to 64 KiB

struct Fiber {
    char* bottom = nullptr;  // of the usable stack; that of the main fiber is known to ASan only
    size_t size = 0;
    bool started = false;
    void* sanitizer = nullptr;  // ASan: fake stack while suspended; TSan: its fiber
#if defined(ZG_ASSEMBLY)
    void* top = nullptr;
#else
    ucontext_t context;
#endif
};

static Fiber main_fiber;
static Fiber* current = &main_fiber;
static Fiber* previous = &main_fiber;
static void (*fiber_body)();

static void arrived() {
#if defined(ZG_ASAN)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(current->sanitizer, &bottom, &size);
    previous->bottom = (char*)bottom;
    previous->size = size;
#endif
}

static void fiber_main() {
    arrived();
    fiber_body();
    abort();  // a body never returns
}

// Lays out a stack from which zg_swap "returns" into fiber_main.
static void prepare(Fiber& fiber) {
    if (!fiber.bottom) {
        void* at = mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED || mprotect(at, GUARD, PROT_NONE)) {
            perror("stack of a fiber");
            abort();
        }
        fiber.bottom = (char*)at + GUARD;
        fiber.size = STACK;
    }
#if defined(ZG_ASAN)
    __asan_unpoison_memory_region(fiber.bottom, fiber.size);  // frames of an aborted launch
    fiber.sanitizer = nullptr;
#endif
#if !defined(ZG_ASSEMBLY)
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.bottom;
    fiber.context.uc_stack.ss_size = fiber.size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#elif defined(__x86_64__)
    void** top = (void**)(fiber.bottom + fiber.size);
    *--top = nullptr;  // a return address of fiber_main, which also aligns its frame
    *--top = (void*)fiber_main;
    for (int i = 0; i < ZG_SAVED; i++) *--top = nullptr;
    fiber.top = top;
#else
    void** top = (void**)(fiber.bottom + fiber.size - 160);
    for (int i = 0; i < 20; i++) top[i] = nullptr;
    top[11] = (void*)fiber_main;  // x30
    fiber.top = top;
#endif
    fiber.started = true;
}

static void switch_to(Fiber& to) {
    Fiber& from = *current;
    if (!to.started && &to != &main_fiber) prepare(to);
    previous = &from;
    current = &to;
#if defined(ZG_ASAN)
    __sanitizer_start_switch_fiber(&from.sanitizer, to.bottom, to.size);
#elif defined(ZG_TSAN)
    __tsan_switch_to_fiber(to.sanitizer, 1);  // 1: a switch orders no memory
#endif
#if defined(ZG_ASSEMBLY)
    zg_swap(&from.top, to.top);
#else
    swapcontext(&from.context, &to.context);
#endif
    arrived();
}

}  // namespace zg
