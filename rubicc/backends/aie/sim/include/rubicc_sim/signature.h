// From a kernel's C++ signature to its ports, and from bound ports to the call.
#pragma once

#include <tuple>
#include <utility>

#include "ports.h"
#include "world.h"

namespace adf::sim {

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, int8>) return "int8";
  else if constexpr (std::is_same_v<T, uint8>) return "uint8";
  else if constexpr (std::is_same_v<T, int16>) return "int16";
  else if constexpr (std::is_same_v<T, uint16>) return "uint16";
  else if constexpr (std::is_same_v<T, int32>) return "int32";
  else if constexpr (std::is_same_v<T, uint32>) return "uint32";
  else if constexpr (std::is_same_v<T, int64>) return "int64";
  else if constexpr (std::is_same_v<T, float>) return "float";
  else if constexpr (std::is_same_v<T, bfloat16>) return "bfloat16";
  else if constexpr (std::is_same_v<T, acc32>) return "acc32";
  else if constexpr (std::is_same_v<T, acc48>) return "acc48";
  else if constexpr (std::is_same_v<T, acc64>) return "acc64";
  else if constexpr (std::is_same_v<T, acc80>) return "acc80";
  else if constexpr (std::is_same_v<T, accfloat>) return "accfloat";
  else return "other";
}

template <class T>
constexpr port_spec element_spec(port_kind kind, int dir) {
  port_spec s;
  s.kind = kind;
  s.dir = dir;
  s.type = type_name<T>();
  s.element_bytes = sizeof(T);
  s.is_float = std::is_same_v<T, float> || std::is_same_v<T, bfloat16>;
  s.is_signed = aie::detail::is_signed_element<T>;
  return s;
}

// One argument: its port, and how the call gets it from the memory the runtime binds.
template <class A>
struct argument {
  static_assert(sizeof(A) == 0, "a kernel argument of this type is not modelled");
};
template <class T, direction D, class... O>
struct argument<io_buffer<T, D, O...>&> {
  static constexpr port_spec spec() {
    using B = io_buffer<T, D, O...>;
    port_spec s = element_spec<T>(port_kind::buffer, int(D));
    s.elements = B::fixed_extent, s.margin = B::margin_elements, s.asynchronous = B::asynchronous;
    return s;
  }
  static io_buffer<T, D, O...>& get(void* p) { return *static_cast<io_buffer<T, D, O...>*>(static_cast<buffer_handle*>(p)); }
};
#define RUBICC_SIM_CHANNEL(NAME, KIND, DIR)                                                  \
  template <class T>                                                                         \
  struct argument<NAME<T>*> {                                                                \
    static constexpr port_spec spec() {                                                      \
      port_spec s = element_spec<T>(port_kind::KIND, DIR);                                   \
      s.key = cascade_key<T>(), s.bits = cascade_bits<T>();                                  \
      return s;                                                                              \
    }                                                                                        \
    static NAME<T>* get(void* p) { return static_cast<NAME<T>*>(p); }                        \
  };
RUBICC_SIM_CHANNEL(input_stream, stream, 0)
RUBICC_SIM_CHANNEL(output_stream, stream, 1)
RUBICC_SIM_CHANNEL(input_cascade, cascade, 0)
RUBICC_SIM_CHANNEL(output_cascade, cascade, 1)
#undef RUBICC_SIM_CHANNEL
template <class T, std::size_t N>
struct argument<T (&)[N]> {
  static constexpr port_spec spec() {
    port_spec s = element_spec<std::remove_const_t<T>>(port_kind::parameter, std::is_const_v<T> ? 0 : 2);
    s.elements = N;
    return s;
  }
  static T (&get(void* p))[N] { return *static_cast<T(*)[N]>(p); }
};
template <class T>
  requires std::is_arithmetic_v<T>
struct argument<T> {
  static constexpr port_spec spec() { return element_spec<std::remove_const_t<T>>(port_kind::parameter, 0); }
  static T get(void* p) { return *static_cast<const T*>(p); }
};

template <class... A, std::size_t... I, class Call>
inline void spread(void** p, std::index_sequence<I...>, Call call) { call(argument<A>::get(p[I])...); }

template <class... A>
std::vector<port_spec> specs() { return {argument<A>::spec()...}; }

template <class... A>
void invoke_function(void*, const void* function, void** p) {
  void (*f)(A...);
  std::memcpy(&f, function, sizeof f);
  spread<A...>(p, std::index_sequence_for<A...>{}, [&](A... a) { f(static_cast<A>(a)...); });
}
template <class C, class... A>
void invoke_member(void* object, const void* function, void** p) {
  void (C::*f)(A...);
  std::memcpy(&f, function, sizeof f);
  spread<A...>(p, std::index_sequence_for<A...>{}, [&](A... a) { (static_cast<C*>(object)->*f)(static_cast<A>(a)...); });
}

// What REGISTER_FUNCTION leaves behind for kernel::create_object.
struct registration {
  std::vector<port_spec> ports;
  invoke_t invoke = nullptr;
  unsigned char function[16] = {};
};
registration& last_registration();

template <class C, class... A>
void register_function(void (C::*f)(A...)) {
  registration& r = last_registration();
  r.ports = specs<A...>();
  r.invoke = &invoke_member<C, A...>;
  static_assert(sizeof f == 16);
  std::memcpy(r.function, &f, sizeof f);
}

// Makes a kernel's object. Declared wherever the graph is built, defined only where the kernel's source is seen
// (entry.h), because a template kernel's members are written in that file alone.
template <class T, class... Arguments>
struct kernel_entry {
  static void* create(const void* arguments);
};

}  // namespace adf::sim

#define REGISTER_FUNCTION(FUNCTION) ::adf::sim::register_function(&FUNCTION)
#define REGISTER_PARAMETER(PARAMETER) (void)0
