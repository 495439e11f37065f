// Batch norm by the statistics of the batch on a CPU, in fewer passes over memory than torch needs; see compiled_norm.py,
// which calls this.
//
// Rows go in blocks that stay in the cache, and blocks in parts whose sums are added up in their order: the result does not
// depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

// The rows of a block, a multiple of 8, so that a block's bits are whole bytes; and the parts.
struct Cut {
  int64_t rows, height, blocks, parts;

  Cut(int64_t rows, int64_t channels)
      : rows(rows),
        height(std::clamp<int64_t>(16384 / std::max<int64_t>(channels, 1), 32, 128) / 8 * 8),
        blocks((rows + height - 1) / height),
        parts(std::min<int64_t>(blocks, 64)) {}
  int64_t start(int64_t block) const { return std::min(block * height, rows); }
  int64_t first_block(int64_t part) const { return part * blocks / parts; }
};

// Takes a set of `count` values with this mean and these centred squares into one of `old` values (Chan et al. 1983,
// eq. 2.1).
inline void merge(double& mean, double& squares, double old, double other_mean, double other_squares, double count) {
  const double apart = other_mean - mean;
  squares += other_squares + apart * apart * (old * count / (old + count));
  mean += apart * (count / (old + count));
}

// Mean and variance (biased) of each channel.
template <typename T>
void moments(const T* x, int64_t rows, int64_t channels, double* mean, double* variance, int64_t threads) {
  const Cut cut(rows, channels);
  std::vector<double> means(cut.parts * channels), squares(cut.parts * channels);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t part = 0; part < cut.parts; ++part) {
    const int64_t first = cut.start(cut.first_block(part));
    for (int64_t block = cut.first_block(part); block < cut.first_block(part + 1); ++block) {
      const int64_t start = cut.start(block), end = cut.start(block + 1);
      const auto count = static_cast<double>(end - start);
      for_channels<T, registers / 8>(channels, [&](int64_t c, auto vectors) {
        using V = typename decltype(vectors)::V;
        constexpr int N = decltype(vectors)::N;
        V own[N] = {}, centred[N] = {};
        for (int64_t r = start; r < end; ++r) {
          const V* row = reinterpret_cast<const V*>(x + r * channels + c);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) own[n] += row[n];
        }
        for (int n = 0; n < N; ++n) own[n] /= static_cast<T>(count);
        for (int64_t r = start; r < end; ++r) {
          const V* row = reinterpret_cast<const V*>(x + r * channels + c);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) centred[n] += (row[n] - own[n]) * (row[n] - own[n]);
        }
        double *m = &means[part * channels + c], *s = &squares[part * channels + c];
        const T *of_own = reinterpret_cast<const T*>(own), *of_centred = reinterpret_cast<const T*>(centred);
        for (size_t i = 0; i < sizeof(own) / (sizeof(T)); ++i)
          merge(m[i], s[i], static_cast<double>(start - first), of_own[i], of_centred[i], count);
      });
    }
  }
  std::fill(mean, mean + channels, 0.0);
  std::fill(variance, variance + channels, 0.0);
  for (int64_t part = 0; part < cut.parts; ++part) {
    const int64_t start = cut.start(cut.first_block(part)), end = cut.start(cut.first_block(part + 1));
    for (int64_t c = 0; c < channels; ++c)
      merge(mean[c], variance[c], static_cast<double>(start), means[part * channels + c], squares[part * channels + c],
            static_cast<double>(end - start));
  }
  for (int64_t c = 0; c < channels; ++c) variance[c] /= static_cast<double>(rows);
}

// result = the gradient where its bit is set, 0 elsewhere; the bits begin with a byte.
template <typename T>
inline void pass(const T* gradient, const uint8_t* bits, int64_t size, T* result) {
  uint8_t inside[64];
  for (int64_t start = 0; start < size; start += 64) {
    const int64_t count = std::min<int64_t>(64, size - start);
    for (int64_t k = 0; k < (count + 7) / 8; ++k) {
      const uint64_t word = bits[start / 8 + k] * 0x0101010101010101u & 0x8040201008040201u;
      std::memcpy(inside + 8 * k, &word, 8);
    }
    for (int64_t i = 0; i < count; ++i) result[start + i] = inside[i] ? gradient[start + i] : T(0);
  }
}

enum class Passes { all, above_zero, below_six };

// What a ReLU makes of y, NaN as it is.
template <Passes passes, typename V>
inline V cut_off(V y) {
  if constexpr (passes == Passes::below_six) y = y >= 6 ? V{} + 6 : y;
  if constexpr (passes != Passes::all) y = y <= 0 ? V{} : y;
  return y;
}

// What it passes of a gradient: it rose where y = x · scale + shift did, NaN included.
template <Passes passes, typename V>
inline V passed(V gradient, V y) {
  if constexpr (passes == Passes::above_zero) gradient = y <= 0 ? V{} : gradient;
  if constexpr (passes == Passes::below_six) gradient = (y <= 0) | (y >= 6) ? V{} : gradient;
  return gradient;
}

// output = x · scale + shift, and a ReLU.
template <typename T, Passes passes>
void normalise(const T* x, const T* scale, const T* shift, T* output, int64_t rows, int64_t channels, int64_t threads) {
  const Cut cut(rows, channels);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < cut.blocks; ++block) {
    for_channels<T, registers / 8>(channels, [&](int64_t c, auto vectors) {
      using V = typename decltype(vectors)::V;
      constexpr int N = decltype(vectors)::N;
      V by[N], plus[N];
      std::memcpy(by, scale + c, sizeof(by));
      std::memcpy(plus, shift + c, sizeof(plus));
      for (int64_t r = cut.start(block); r < cut.start(block + 1); ++r) {
        const V* row = reinterpret_cast<const V*>(x + r * channels + c);
        V* to = reinterpret_cast<V*>(output + r * channels + c);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) to[n] = cut_off<passes, V>(row[n] * by[n] + plus[n]);
      }
    });
  }
}

// The gradient of x, and by bits of what was added (may be null); of_weight and of_bias: sums over rows of the gradient
// that a ReLU passes, times the normed x and by itself. numbers: mean, 1 / √(variance + eps), and by these and by weight and
// bias the scale and shift of x, [4][channels].
template <typename T, Passes passes>
void gradient(const T* given, const T* x, const uint8_t* bits, const T* numbers, T* data, T* added, double* of_weight,
              double* of_bias, int64_t rows, int64_t channels, int64_t threads) {
  const Cut cut(rows, channels);
  const T *mean = numbers, *rate = mean + channels, *scale = rate + channels, *shift = scale + channels;
  std::vector<double> sums(cut.parts * 2 * channels);
  std::vector<T> of_all(2 * channels);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::vector<T> space(bits ? cut.height * channels : 0);
    // The gradient of a block's rows, by bits what passes of it.
    const auto of_block = [&](int64_t start, int64_t end) -> const T* {
      if (!bits) return given + start * channels;
      T* to = added ? added + start * channels : space.data();
      pass(given + start * channels, bits + start * channels / 8, (end - start) * channels, to);
      return to;
    };
#pragma omp for schedule(static)
    for (int64_t part = 0; part < cut.parts; ++part) {
      double *of_part = &sums[part * 2 * channels], *with_x = of_part + channels;
      for (int64_t block = cut.first_block(part); block < cut.first_block(part + 1); ++block) {
        const int64_t start = cut.start(block), end = cut.start(block + 1);
        const T* g = of_block(start, end);
        for_channels<T, registers / 8>(channels, [&](int64_t c, auto vectors) {
          using V = typename decltype(vectors)::V;
          constexpr int N = decltype(vectors)::N;
          V total[N] = {}, product[N] = {}, centre[N], by[N], plus[N];
          std::memcpy(centre, mean + c, sizeof(centre));
          std::memcpy(by, scale + c, sizeof(by));
          std::memcpy(plus, shift + c, sizeof(plus));
          for (int64_t r = 0; r < end - start; ++r) {
            const V* value = reinterpret_cast<const V*>(g + r * channels + c);
            const V* row = reinterpret_cast<const V*>(x + (start + r) * channels + c);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
              const V in = passed<passes, V>(value[n], row[n] * by[n] + plus[n]);
              total[n] += in;
              product[n] += in * (row[n] - centre[n]);
            }
          }
          const T *of_total = reinterpret_cast<const T*>(total), *of_product = reinterpret_cast<const T*>(product);
          for (size_t i = 0; i < sizeof(total) / (sizeof(T)); ++i)
            of_part[c + i] += of_total[i], with_x[c + i] += of_product[i];
        });
      }
    }
#pragma omp single
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0, product = 0;
      for (int64_t part = 0; part < cut.parts; ++part) {
        total += sums[part * 2 * channels + c];
        product += sums[(part * 2 + 1) * channels + c];
      }
      of_bias[c] = total;
      of_weight[c] = product * rate[c];
      of_all[c] = static_cast<T>(total / rows);
      of_all[channels + c] = static_cast<T>(of_weight[c] * rate[c] / rows);
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < cut.blocks; ++block) {
      const int64_t start = cut.start(block), end = cut.start(block + 1);
      const T* g = added ? added + start * channels : of_block(start, end);
      for_channels<T, registers / 8>(channels, [&](int64_t c, auto vectors) {
        using V = typename decltype(vectors)::V;
        constexpr int N = decltype(vectors)::N;
        V centre[N], by[N], plus[N], level[N], slope[N];
        std::memcpy(centre, mean + c, sizeof(centre));
        std::memcpy(by, scale + c, sizeof(by));
        std::memcpy(plus, shift + c, sizeof(plus));
        std::memcpy(level, &of_all[c], sizeof(level));
        std::memcpy(slope, &of_all[channels + c], sizeof(slope));
        for (int64_t r = 0; r < end - start; ++r) {
          const V* value = reinterpret_cast<const V*>(g + r * channels + c);
          const V* row = reinterpret_cast<const V*>(x + (start + r) * channels + c);
          V* to = reinterpret_cast<V*>(data + (start + r) * channels + c);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) {
            const V in = passed<passes, V>(value[n], row[n] * by[n] + plus[n]);
            to[n] = by[n] * (in - level[n] - (row[n] - centre[n]) * slope[n]);
          }
        }
      });
    }
  }
}

}  // namespace

#define NORM(T, NAME)                                                                                              \
  extern "C" void moments_##NAME(const T* x, int64_t rows, int64_t channels, double* mean, double* variance,       \
                                 int64_t threads) {                                                                \
    moments<T>(x, rows, channels, mean, variance, threads);                                                        \
  }                                                                                                                \
  extern "C" void normalise_##NAME(const T* x, const T* scale, const T* shift, T* output, int64_t passes,            \
                                   int64_t rows, int64_t channels, int64_t threads) {                              \
    const auto of = passes == 1   ? normalise<T, Passes::above_zero>                                               \
                    : passes == 2 ? normalise<T, Passes::below_six>                                                \
                                  : normalise<T, Passes::all>;                                                     \
    of(x, scale, shift, output, rows, channels, threads);                                                          \
  }                                                                                                                \
  extern "C" void norm_gradient_##NAME(const T* given, const T* x, const uint8_t* bits, const T* numbers, T* data,   \
                                       T* added, double* of_weight, double* of_bias, int64_t passes, int64_t rows,  \
                                       int64_t channels, int64_t threads) {                                         \
    const auto of = passes == 1   ? gradient<T, Passes::above_zero>                                                 \
                    : passes == 2 ? gradient<T, Passes::below_six>                                                  \
                                  : gradient<T, Passes::all>;                                                       \
    of(given, x, bits, numbers, data, added, of_weight, of_bias, rows, channels, threads);                          \
  }

NORM(float, float32)
NORM(double, float64)
