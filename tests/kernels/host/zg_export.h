// Makes a kernel known to the loader: ZG_EXPORT(name), after the text of the kernel file.

#pragma once

#include <type_traits>
#include <utility>

namespace zg {

template <class T> constexpr char code() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_floating_point<T>::value) return 'f';
    return std::is_signed<T>::value ? 'i' : 'u';
}

template <auto kernel> struct Entry;
template <class... A, void (*kernel)(A...)> struct Entry<kernel> {
    static constexpr char signature[] = {code<A>()..., 0};
    static constexpr char sizes[] = {(char)('0' + sizeof(A))..., 0};
    template <decltype(sizeof(0))... i>
    static void call(void** args, std::index_sequence<i...>) {
        kernel(*(A*)args[i]...);
    }
    static void invoke(void** args) { call(args, std::index_sequence_for<A...>{}); }
};

struct Register {
    Kernel kernel;
    Register(const char* name, const char* kinds, const char* sizes, void (*invoke)(void**))
        : kernel{name, kinds, sizes, invoke, kernels} {
        kernels = &kernel;
    }
};

}  // namespace zg

#define ZG_EXPORT(name)                                                                        \
    static zg::Register zg_register_##name(#name, zg::Entry<&name>::signature,                 \
                                           zg::Entry<&name>::sizes, zg::Entry<&name>::invoke);
