// Channels of a row, as many at a time as fit into the registers.
#pragma once
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, registers = 32;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16, registers = 32;
#else
constexpr int vector_bytes = 16, registers = 16;
#endif

template <typename T, int Bytes>
struct Vector {
  typedef T type __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
};

template <typename Vector, int Count>
struct Vectors {
  using V = Vector;
  static constexpr int N = Count;
};

template <typename V, int N, typename Of>
inline void choose(int count, int64_t c, Of of) {
  if (count == N) {
    of(c, Vectors<V, N>());
  } else if constexpr (N > 1) {
    choose<V, N - 1>(count, c, of);
  }
}

// Calls of(c, Vectors<V, N>()) for all channels, N ≤ Most vectors from channel c on; what fills no vector goes to narrower
// ones.
template <typename T, int Most, typename Of, int Bytes = vector_bytes>
inline void for_channels(int64_t channels, Of of, int64_t first = 0) {
  using V = typename Vector<T, Bytes>::type;
  constexpr int64_t lanes = Bytes / sizeof(T), most = Bytes == vector_bytes ? Most : 1;
  const int64_t vectors = (channels - first) / lanes, parts = (vectors + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t start = part * vectors / parts, end = (part + 1) * vectors / parts;
    choose<V, most>(static_cast<int>(end - start), first + start * lanes, of);
  }
  if constexpr (lanes > 1)
    if (first + vectors * lanes < channels) for_channels<T, Most, Of, Bytes / 2>(channels, of, first + vectors * lanes);
}

}  // namespace
