// Sparse depthwise convolution on a CPU; see depthwise.py, which calls this.
//
// No matrix is shared here, so a row is finished at once: its sum stays in registers while all that it reads comes by, a
// few vectors of channels at a time. One thread owns all rows of a block, so nothing is added atomically and the result
// does not depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../vectors.h"

namespace {

constexpr int most = registers / 4;  // so many vectors of three kinds fit into the registers
constexpr int64_t height = 256;      // rows of a block: what they read stays in the cache while channels come by

// What rows read: that of place k of row r is offsets[r · places + k] up to the next one.
struct Rows {
  const int32_t *offsets, *members, *taps;  // the row that is read, and through which tap
  const int32_t* columns;                   // the line of the kernel for each tap
  int64_t size, places;

  int64_t blocks() const { return (size + height - 1) / height; }
};

// to[n] += a[n] · b[n]
template <int N, typename V, typename T>
inline void add_products(V* to, const V* a, const T* b) {
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) to[n] += a[n] * reinterpret_cast<const V*>(b)[n];
}

// output[r] = Σ scales[column] · features[member]; scales: [columns][channels].
template <typename T>
void convolve(const Rows& rows, const T* features, const T* scales, T* output, int64_t channels, int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < rows.blocks(); ++block) {
    const int64_t first = block * height, last = std::min(rows.size, first + height);
    for_channels<T, most>(channels, [&](int64_t c, auto vectors) {
      using V = typename decltype(vectors)::V;
      constexpr int N = decltype(vectors)::N;
      for (int64_t r = first; r < last; ++r) {
        V sum[N] = {};
        for (int32_t m = rows.offsets[r * rows.places]; m < rows.offsets[(r + 1) * rows.places]; ++m) {
          const T* scale = scales + rows.columns[rows.taps[m]] * channels + c;
          add_products<N>(sum, reinterpret_cast<const V*>(scale), features + rows.members[m] * channels + c);
        }
        std::memcpy(output + r * channels + c, sum, sizeof(sum));
      }
    });
  }
}

// kernel[column] = Σ gradient[r] · features[member], as `count` sums of consecutive blocks, [count][columns][channels].
template <typename T>
void kernel_gradient(const Rows& rows, const T* features, const T* gradient, T* kernels, int64_t count, int64_t columns,
                     int64_t channels, int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
  for (int64_t number = 0; number < count; ++number) {
    T* kernel = kernels + number * columns * channels;
    std::fill(kernel, kernel + columns * channels, T(0));
    for (int64_t block = number * rows.blocks() / count; block < (number + 1) * rows.blocks() / count; ++block) {
      const int64_t first = block * height, last = std::min(rows.size, first + height);
      for_channels<T, most>(channels, [&](int64_t c, auto vectors) {
        using V = typename decltype(vectors)::V;
        constexpr int N = decltype(vectors)::N;
        for (int64_t r = first; r < last; ++r) {
          V own[N];
          std::memcpy(own, gradient + r * channels + c, sizeof(own));
          for (int32_t m = rows.offsets[r * rows.places]; m < rows.offsets[(r + 1) * rows.places]; ++m) {
            T* line = kernel + rows.columns[rows.taps[m]] * channels + c;
            add_products<N>(reinterpret_cast<V*>(line), own, features + rows.members[m] * channels + c);
          }
        }
      });
    }
  }
}

// Where line `column` of the kernel fills its depth by weights [places][channels]: the gradient of the features, and that
// of the weights, as `count` sums of consecutive blocks, [count][places][channels]. What place k brings to a row is
// summed before it meets either: its weight, and the row's own features.
template <typename T>
void depth_gradients(const Rows& rows, const T* features, const T* gradient, const T* scales, const T* weights, T* data,
                     T* sums, int64_t count, int64_t channels, int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
  for (int64_t number = 0; number < count; ++number) {
    T* sums_here = sums + number * rows.places * channels;
    std::fill(sums_here, sums_here + rows.places * channels, T(0));
    for (int64_t block = number * rows.blocks() / count; block < (number + 1) * rows.blocks() / count; ++block) {
      const int64_t first = block * height, last = std::min(rows.size, first + height);
      for_channels<T, most>(channels, [&](int64_t c, auto vectors) {
        using V = typename decltype(vectors)::V;
        constexpr int N = decltype(vectors)::N;
        for (int64_t r = first; r < last; ++r) {
          V total[N] = {};
          for (int64_t place = 0; place < rows.places; ++place) {
            const int32_t* offset = rows.offsets + r * rows.places + place;
            if (offset[0] == offset[1]) continue;
            V sum[N] = {};
            for (int32_t m = offset[0]; m < offset[1]; ++m) {
              const T* scale = scales + rows.columns[rows.taps[m]] * channels + c;
              add_products<N>(sum, reinterpret_cast<const V*>(scale), gradient + rows.members[m] * channels + c);
            }
            add_products<N>(total, sum, weights + place * channels + c);
            T* line = sums_here + place * channels + c;
            add_products<N>(reinterpret_cast<V*>(line), sum, features + r * channels + c);
          }
          std::memcpy(data + r * channels + c, total, sizeof(total));
        }
      });
    }
  }
}

}  // namespace

// The offsets of `Rows`. reads: [taps][size], what each row reads through each tap, or −1; order: the taps of the first
// place, then those of the second, `columns` of each.
extern "C" void count_rows(const int32_t* reads, const int32_t* order, int64_t size, int64_t places, int64_t columns,
                           int32_t* offsets, int64_t threads) {
  offsets[0] = 0;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t first = 0; first < size; first += height) {
    const int64_t rows = std::min(height, size - first);
    for (int64_t place = 0; place < places; ++place) {
      int32_t found[height] = {};
      for (int64_t i = place * columns; i < (place + 1) * columns; ++i) {
        const int32_t* of_tap = reads + order[i] * size + first;
        for (int64_t r = 0; r < rows; ++r) found[r] += of_tap[r] >= 0;
      }
      for (int64_t r = 0; r < rows; ++r) offsets[(first + r) * places + place + 1] = found[r];
    }
  }
  for (int64_t i = 0; i < size * places; ++i) offsets[i + 1] += offsets[i];
}

// Then their members and taps.
extern "C" void fill_rows(const int32_t* reads, const int32_t* order, int64_t size, int64_t places, int64_t columns,
                          const int32_t* offsets, int32_t* members, int32_t* taps, int64_t threads) {
  const int64_t count = places * columns;
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::vector<int32_t> found(2 * count);  // members and taps of a row
#pragma omp for schedule(static)
    for (int64_t r = 0; r < size; ++r) {
      int64_t next = 0;  // which entries there are cannot be foreseen, so none is branched on
      for (int64_t i = 0; i < count; ++i) {
        const int32_t read = reads[order[i] * size + r];
        found[next] = read;
        found[count + next] = order[i];
        next += read >= 0;
      }
      std::copy_n(&found[0], next, members + offsets[r * places]);
      std::copy_n(&found[count], next, taps + offsets[r * places]);
    }
  }
}

#define ROWS \
  const int32_t *offsets, const int32_t *members, const int32_t *taps, const int32_t *columns, int64_t size, int64_t places
#define GIVEN Rows{offsets, members, taps, columns, size, places}
#define ENTRIES(T, NAME)                                                                                            \
  extern "C" void depthwise_##NAME(ROWS, const T* features, const T* scales, T* output, int64_t channels,           \
                                   int64_t threads) {                                                               \
    convolve<T>(GIVEN, features, scales, output, channels, threads);                                                \
  }                                                                                                                 \
  extern "C" void depthwise_kernel_##NAME(ROWS, const T* features, const T* gradient, T* kernels, int64_t count,    \
                                          int64_t lines, int64_t channels, int64_t threads) {                       \
    kernel_gradient<T>(GIVEN, features, gradient, kernels, count, lines, channels, threads);                        \
  }                                                                                                                 \
  extern "C" void depthwise_depth_##NAME(ROWS, const T* features, const T* gradient, const T* scales,               \
                                         const T* weights, T* data, T* sums, int64_t count, int64_t channels,       \
                                         int64_t threads) {                                                         \
    depth_gradients<T>(GIVEN, features, gradient, scales, weights, data, sums, count, channels, threads);           \
  }

ENTRIES(float, float32)
ENTRIES(double, float64)
