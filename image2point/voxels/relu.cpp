// ReLU and ReLU6 on a CPU with one bit per element for the gradient, alone or after a scale, a shift and a sum; see
// relu.py, which calls this.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int64_t part = 4096;  // elements between two looks at the bits; a multiple of 8

// One output = x between 0 and, if bounded, top, NaN as it is; returns whether x lies inside, or is NaN.
template <typename T, bool bounded>
inline uint8_t clip(T x, T top, T* output) {
  const bool above = bounded && x >= top;
  *output = x <= 0 ? 0 : above ? top : x;
  return !(x <= 0) & !above;
}

// Bit i of byte k = element 8 k + i of `inside`, of bytes 0 or 1. Its room up to a multiple of 8 is written to.
inline void pack(uint8_t* inside, int64_t count, uint8_t* bits) {
  const int64_t bytes = (count + 7) / 8;
  for (int64_t i = count; i < 8 * bytes; ++i) inside[i] = 0;
  for (int64_t k = 0; k < bytes; ++k) {
    uint64_t word;  // the product moves byte i to bit i of the highest byte, without a carry
    std::memcpy(&word, inside + 8 * k, 8);
    bits[k] = static_cast<uint8_t>(word * 0x0102040810204080u >> 56);
  }
}

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
    for (int64_t i = 0; i < count; ++i) inside[i] = clip<T, bounded>(in[i], top, out + i);
    pack(inside, count, bits + start / 8);
  }
}

// output = rows · scale + shift + residual (may be null), where they lie or elsewhere; then a ReLU, if clipped, with its
// bits (may be null).
template <typename T, bool clipped, bool bounded>
void finish(const T* rows, T* output, int64_t size, int64_t channels, const T* scale, const T* shift, const T* residual, uint8_t* bits,
            int64_t threads) {
  const int64_t height = std::max<int64_t>(part / std::max<int64_t>(channels, 1) / 8, 1) * 8;  // rows with whole bytes
  const int64_t parts = (size + height - 1) / height;
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::unique_ptr<uint8_t[]> inside(new uint8_t[height * channels]);
#pragma omp for schedule(static)
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t first = p * height, count = std::min(height, size - first);
      for (int64_t r = 0; r < count; ++r) {
        const T* in = rows + (first + r) * channels;
        T* row = output + (first + r) * channels;  // the same place or another one: no element is read after another is written
        if (residual) {
          const T* other = residual + (first + r) * channels;
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; ++c) row[c] = in[c] * scale[c] + shift[c] + other[c];
        } else {
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; ++c) row[c] = in[c] * scale[c] + shift[c];
        }
        if (clipped)
          for (int64_t c = 0; c < channels; ++c) inside[r * channels + c] = clip<T, bounded>(row[c], T(6), row + c);
      }
      if (clipped && bits) pack(inside.get(), count * channels, bits + first * channels / 8);
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
  extern "C" void finish_##NAME(const T* rows, T* output, int64_t size, int64_t channels, const T* scale, const T* shift,            \
                                const T* residual, int64_t kind, uint8_t* bits, int64_t threads) {                  \
    const auto steps = kind == 0 ? finish<T, false, false> : kind == 1 ? finish<T, true, false> : finish<T, true, true>; \
    steps(rows, output, size, channels, scale, shift, residual, bits, threads);                                             \
  }                                                                                                                 \
  extern "C" void where_##NAME(const T* gradient, int64_t size, const uint8_t* bits, T* result, int64_t threads) {  \
    where<T>(gradient, size, bits, result, threads);                                                                \
  }

RELU(float, float32)
RELU(double, float64)
