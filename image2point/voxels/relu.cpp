// ReLU and ReLU6 on a CPU with one bit per element for the gradient; see relu.py, which calls this.
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t part = 4096;  // elements between two looks at the bits; a multiple of 8

// output = the input between 0 and, if bounded, top, NaN as it is; bit i of byte k: whether element 8 k + i lies inside, or is NaN.
template <typename T, bool bounded>
void rising(const T* input, int64_t size, T top, T* output, uint8_t* bits, int64_t threads) {
  const int64_t parts = (size + part - 1) / part;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t start = p * part, count = std::min(part, size - start);
    const T* in = input + start;
    T* out = output + start;
    uint8_t inside[part];
    for (int64_t i = 0; i < count; ++i) {
      const T x = in[i];
      const bool above = bounded && x >= top;
      out[i] = x <= 0 ? 0 : above ? top : x;
      inside[i] = !(x <= 0) & !above;
    }
    for (int64_t i = count; i < (count + 7) / 8 * 8; ++i) inside[i] = 0;
    for (int64_t k = 0; k < (count + 7) / 8; ++k) {
      uint64_t word;  // of eight bytes 0 or 1: the product moves byte i to bit i of the highest byte, without a carry
      std::memcpy(&word, inside + 8 * k, 8);
      bits[start / 8 + k] = static_cast<uint8_t>(word * 0x0102040810204080u >> 56);
    }
  }
}

// result = the gradient where its bit is set, 0 elsewhere.
template <typename T>
void where(const T* gradient, int64_t size, const uint8_t* bits, T* result, int64_t threads) {
  const int64_t parts = (size + part - 1) / part;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t start = p * part, count = std::min(part, size - start);
    uint8_t inside[part];
    for (int64_t k = 0; k < (count + 7) / 8; ++k) {
      const uint64_t word = bits[start / 8 + k] * 0x0101010101010101u & 0x8040201008040201u;
      std::memcpy(inside + 8 * k, &word, 8);
    }
    for (int64_t i = 0; i < count; ++i) result[start + i] = inside[i] ? gradient[start + i] : T(0);
  }
}

}  // namespace

#define RELU(T, NAME)                                                                                               \
  extern "C" void rising_##NAME(const T* input, int64_t size, int64_t six, T* output, uint8_t* bits,                \
                                int64_t threads) {                                                                  \
    if (six)                                                                                                        \
      rising<T, true>(input, size, T(6), output, bits, threads);                                                    \
    else                                                                                                            \
      rising<T, false>(input, size, T(0), output, bits, threads);                                                   \
  }                                                                                                                 \
  extern "C" void where_##NAME(const T* gradient, int64_t size, const uint8_t* bits, T* result, int64_t threads) {  \
    where<T>(gradient, size, bits, result, threads);                                                                \
  }

RELU(float, float32)
RELU(double, float64)
