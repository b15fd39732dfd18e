// Included after a kernel's source by the unit that rubicc writes for it: see rubicc/backends/aie/sim/build.py.
#pragma once

#include "signature.h"

namespace adf::sim {

template <class T, class... Arguments>
void* kernel_entry<T, Arguments...>::create(const void* arguments) {
  T::registerKernelClass();  // its address is taken here, so its members are compiled here
  if constexpr (sizeof...(Arguments) == 0) {
    return new T();
  } else {
    return std::apply([](const Arguments&... a) { return new T(Arguments(a)...); },
                      *static_cast<const std::tuple<Arguments...>*>(arguments));
  }
}

}  // namespace adf::sim
