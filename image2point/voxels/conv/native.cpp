// Sparse convolution with inflated kernels on a CPU; see native.py, which builds and calls this.
//
// A table is cut into blocks of output rows. Within a block the bags of a column stand together: a bag is what one row
// reads through one column, and its members are summed before they are multiplied. One thread owns all rows of a task,
// so nothing is added atomically and the result does not depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, tile = 12;  // 12 × 2 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int vector_bytes = 32, tile = 6;  // 6 × 2 of 16 registers
#elif defined(__aarch64__)
constexpr int vector_bytes = 16, tile = 12;
#else
constexpr int vector_bytes = 16, tile = 6;
#endif

constexpr int chunk = 120;  // bags whose sums wait in the second-level cache; a multiple of every tile

template <typename T>
struct Vector {
  typedef T type __attribute__((vector_size(vector_bytes), aligned(alignof(T)), may_alias));
  static constexpr int width = 2 * vector_bytes / static_cast<int>(sizeof(T));  // columns of a panel
};

// Adds a[M][inputs] · panel[inputs][width] to M output rows, of which the first `valid` columns exist; or writes it there.
template <typename T, bool Add, int M>
inline void multiply_tile(const T* const* a, const T* panel, int64_t inputs, T* const* rows, int valid) {
  using V = typename Vector<T>::type;
  constexpr int half = Vector<T>::width / 2;
  V sums[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) sums[i][0] = sums[i][1] = V{};
  const T* in[M];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) in[i] = a[i];
  for (int64_t k = 0; k < inputs; ++k) {
    const V left = *reinterpret_cast<const V*>(panel), right = *reinterpret_cast<const V*>(panel + half);
    panel += 2 * half;
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const T x = in[i][k];
      sums[i][0] += x * left;
      sums[i][1] += x * right;
    }
  }
  for (int i = 0; i < M; ++i) {
    if (!Add) {
      *reinterpret_cast<V*>(rows[i]) = sums[i][0];
      *reinterpret_cast<V*>(rows[i] + half) = sums[i][1];
    } else if (valid == 2 * half) {
      *reinterpret_cast<V*>(rows[i]) += sums[i][0];
      *reinterpret_cast<V*>(rows[i] + half) += sums[i][1];
    } else {
      for (int n = 0; n < valid; ++n) rows[i][n] += n < half ? sums[i][0][n] : sums[i][1][n - half];
    }
  }
}

template <typename T, bool Add = true, int M = tile>
inline void multiply_up_to(int count, const T* const* a, const T* panel, int64_t inputs, T* const* rows, int valid) {
  if (count == M) {
    multiply_tile<T, Add, M>(a, panel, inputs, rows, valid);
  } else if constexpr (M > 1) {
    multiply_up_to<T, Add, M - 1>(count, a, panel, inputs, rows, valid);
  }
}

template <typename T>
struct Table {
  const int32_t *members, *offsets, *rows;  // of each bag: members[offsets[i]:offsets[i + 1]], row within its block
  const int32_t* edges;                     // first bag of each column of each block
  const int32_t* places;                    // place of each member in its column; read where there are weights
  const T* weights;                         // of each place, [places] or [places][channels]; null: all are 1
  int64_t by_channel;                       // whether channels have weights of their own
  int64_t size, height, columns;            // output rows, rows per block, columns

  int64_t blocks() const { return (size + height - 1) / height; }
};

// The weight of a place for all channels, to be read as those for each are.
template <typename T>
struct Shared {
  T value;
  T operator[](int64_t) const { return value; }
};

// Adds up `count` rows in `space`; weight(i)[c]: what channel c of row i is multiplied with.
template <typename T, typename Row, typename Weight>
inline const T* weighted_sum(int32_t count, Row row, Weight weight, int64_t channels, T* space) {
  const T* first = row(0);
  const auto w = weight(0);
  if (count == 1) {
    for (int64_t c = 0; c < channels; ++c) space[c] = w[c] * first[c];
    return space;
  }
  const T* next = row(1);
  const auto other = weight(1);
  for (int64_t c = 0; c < channels; ++c) space[c] = w[c] * first[c] + other[c] * next[c];
  for (int32_t i = 2; i < count; ++i) {
    next = row(i);
    const auto last = weight(i);
    for (int64_t c = 0; c < channels; ++c) space[c] += last[c] * next[c];
  }
  return space;
}

// The weighted sum of a bag: the row itself where it is one of weight 1, else in `space`.
template <typename T>
inline const T* sum(const Table<T>& table, int64_t bag, const T* features, int64_t channels, T* space) {
  const int32_t start = table.offsets[bag], count = table.offsets[bag + 1] - start;
  const int32_t* members = table.members + start;
  const auto row = [=](int32_t i) { return features + static_cast<int64_t>(members[i]) * channels; };
  const T* first = row(0);
  if (table.weights == nullptr) {
    if (count == 1) return first;
    const T* next = row(1);
    for (int64_t c = 0; c < channels; ++c) space[c] = first[c] + next[c];
    for (int32_t i = 2; i < count; ++i) {
      next = row(i);
      for (int64_t c = 0; c < channels; ++c) space[c] += next[c];
    }
    return space;
  }
  const int32_t* places = table.places + start;
  const T* weights = table.weights;
  if (table.by_channel)
    return weighted_sum(count, row, [=](int32_t i) { return weights + places[i] * channels; }, channels, space);
  if (count == 1 && weights[places[0]] == 1) return first;
  return weighted_sum(count, row, [=](int32_t i) { return Shared<T>{weights[places[i]]}; }, channels, space);
}

// A kernel with `taps` numbers per pair of channels, as panels [taps][ceil(outputs / width)][inputs][width], filled up with
// zeros. Channels are `in` and `out` numbers apart, so that a transposed kernel is packed as it lies.
template <typename T>
void pack(const T* kernel, T* panels, int64_t taps, int64_t inputs, int64_t outputs, int64_t in, int64_t out,
          int64_t threads) {
  constexpr int width = Vector<T>::width;
  const int64_t count = (outputs + width - 1) / width;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t task = 0; task < count * inputs; ++task) {
    const int64_t panel = task / inputs, input = task % inputs, valid = std::min<int64_t>(width, outputs - panel * width);
    const T* from = kernel + input * in + panel * width * out;
    for (int64_t tap = 0; tap < taps; ++tap) {
      T* to = panels + ((tap * count + panel) * inputs + input) * width;
      for (int64_t n = 0; n < valid; ++n) to[n] = from[n * out + tap];
      for (int64_t n = valid; n < width; ++n) to[n] = 0;
    }
  }
}

// Back again: [taps][inputs][outputs] as a kernel [outputs][inputs][taps].
template <typename T>
void unpack(const T* matrices, T* kernel, int64_t taps, int64_t inputs, int64_t outputs, int64_t threads) {
  constexpr int width = Vector<T>::width;
  const int64_t count = (outputs + width - 1) / width;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t task = 0; task < count * inputs; ++task) {
    const int64_t panel = task / inputs, input = task % inputs, valid = std::min<int64_t>(width, outputs - panel * width);
    const T* from = matrices + input * outputs + panel * width;
    T* to = kernel + (panel * width * inputs + input) * taps;
    for (int64_t n = 0; n < valid; ++n)
      for (int64_t tap = 0; tap < taps; ++tap) to[n * inputs * taps + tap] = from[tap * inputs * outputs + n];
  }
}

// `panels`: [columns][ceil(outputs / width)][inputs][width]; reversed: the last column's matrix belongs to the first.
template <typename T>
void convolve(const Table<T>& table, const T* features, const T* panels, T* output, int64_t inputs, int64_t outputs,
              bool reversed, int64_t threads) {
  constexpr int width = Vector<T>::width;
  const int64_t count = (outputs + width - 1) / width, blocks = table.blocks();
  if (blocks == 0) return;
  // With few rows, the panels are shared out as well; what is gathered is gathered again for each share.
  const int64_t shares = std::min(count, (8 * threads + blocks - 1) / blocks);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::unique_ptr<T[]> space(new T[chunk * inputs]);
    const T* in[chunk];
    T* out[chunk];
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < blocks * shares; ++task) {
      const int64_t block = task / shares, share = task % shares;
      const int64_t first_panel = share * count / shares, last_panel = (share + 1) * count / shares;
      const int64_t left = first_panel * width, right = std::min(last_panel * width, outputs);
      T* base = output + block * table.height * outputs;
      const int64_t rows = std::min(table.height, table.size - block * table.height);
      for (int64_t r = 0; r < rows; ++r) std::memset(base + r * outputs + left, 0, (right - left) * sizeof(T));
      for (int64_t column = 0; column < table.columns; ++column) {
        const int32_t* edge = table.edges + block * table.columns + column;
        const T* matrix = panels + (reversed ? table.columns - 1 - column : column) * count * inputs * width;
        for (int64_t start = edge[0]; start < edge[1]; start += chunk) {
          const int bags = static_cast<int>(std::min<int64_t>(chunk, edge[1] - start));
          for (int i = 0; i < bags; ++i) {
            in[i] = sum(table, start + i, features, inputs, &space[i * inputs]);
            out[i] = base + table.rows[start + i] * outputs + left;
          }
          for (int64_t panel = first_panel; panel < last_panel; ++panel) {
            const int valid = static_cast<int>(std::min<int64_t>(width, outputs - panel * width));
            for (int i = 0; i < bags; i += tile)
              multiply_up_to<T>(std::min(tile, bags - i), in + i, matrix + panel * inputs * width, inputs, out + i, valid);
            for (int i = 0; i < bags; ++i) out[i] += width;
          }
        }
      }
    }
  }
}

// Adds Σ x[k][0:M] ⊗ gradient[k][0:valid] over `count` bags to M rows of a kernel, `outputs` apart.
template <typename T, int M>
inline void outer_tile(const T* const* x, const T* const* gradient, int count, int64_t input, int64_t output, T* kernel,
                       int64_t outputs, int valid) {
  using V = typename Vector<T>::type;
  constexpr int half = Vector<T>::width / 2;
  if (valid < 2 * half) {
    for (int k = 0; k < count; ++k)
      for (int i = 0; i < M; ++i)
        for (int n = 0; n < valid; ++n) kernel[i * outputs + n] += x[k][input + i] * gradient[k][output + n];
    return;
  }
  V sums[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) sums[i][0] = sums[i][1] = V{};
  for (int k = 0; k < count; ++k) {
    const T *in = x[k] + input, *out = gradient[k] + output;
    const V left = *reinterpret_cast<const V*>(out), right = *reinterpret_cast<const V*>(out + half);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      sums[i][0] += in[i] * left;
      sums[i][1] += in[i] * right;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    *reinterpret_cast<V*>(kernel + i * outputs) += sums[i][0];
    *reinterpret_cast<V*>(kernel + i * outputs + half) += sums[i][1];
  }
}

template <typename T, int M = tile>
inline void outer_up_to(int rows, const T* const* x, const T* const* gradient, int count, int64_t input, int64_t output,
                        T* kernel, int64_t outputs, int valid) {
  if (rows == M) {
    outer_tile<T, M>(x, gradient, count, input, output, kernel, outputs, valid);
  } else if constexpr (M > 1) {
    outer_up_to<T, M - 1>(rows, x, gradient, count, input, output, kernel, outputs, valid);
  }
}

// The gradient of a kernel, [columns][inputs][outputs].
template <typename T>
void weight_gradient(const Table<T>& table, const T* features, const T* gradient, T* kernel, int64_t inputs,
                     int64_t outputs, int64_t threads) {
  constexpr int width = Vector<T>::width;
  const int64_t count = (outputs + width - 1) / width;
  // A task owns a column and a share of the panels, so that nothing is added up over threads.
  const int64_t shares = std::min(count, (8 * threads + table.columns - 1) / table.columns);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::unique_ptr<T[]> space(new T[chunk * inputs]);
    const T *in[chunk], *out[chunk];
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < table.columns * shares; ++task) {
      const int64_t column = task / shares, share = task % shares;
      T* matrix = kernel + column * inputs * outputs;
      const int64_t left = share * count / shares * width;
      const int64_t right = std::min((share + 1) * count / shares * width, outputs);
      for (int64_t i = 0; i < inputs; ++i) std::memset(matrix + i * outputs + left, 0, (right - left) * sizeof(T));
      for (int64_t block = 0; block < table.blocks(); ++block) {
        const int32_t* edge = table.edges + block * table.columns + column;
        const T* base = gradient + block * table.height * outputs;
        for (int64_t start = edge[0]; start < edge[1]; start += chunk) {
          const int bags = static_cast<int>(std::min<int64_t>(chunk, edge[1] - start));
          for (int i = 0; i < bags; ++i) {
            in[i] = sum(table, start + i, features, inputs, &space[i * inputs]);
            out[i] = base + table.rows[start + i] * outputs;
          }
          for (int64_t panel = share * count / shares; panel < (share + 1) * count / shares; ++panel) {
            const int64_t output = panel * width;
            const int valid = static_cast<int>(std::min<int64_t>(width, outputs - output));
            for (int64_t input = 0; input < inputs; input += tile)
              outer_up_to<T>(static_cast<int>(std::min<int64_t>(tile, inputs - input)), in, out, bags, input, output,
                             matrix + input * outputs + output, outputs, valid);
          }
        }
      }
    }
  }
}

// The gradients of the features and of the weights of the places, in one pass over a table whose bags are spread: a bag
// is a row of the result (`rows`, in the whole) that reads some features of the block through one column (`members`).
// The product of the column's transposed matrix with that row's gradient is made once, and serves all its members.
// `panels`: of the transposed kernel, as in `convolve`; parts: [blocks][ceil(inputs / width)][places], to be added up, or
// by channel [blocks][places][inputs].
template <typename T, bool ByChannel>
void depth_gradient(const Table<T>& table, const T* features, const T* gradient, const T* panels, T* data, T* parts,
                    int64_t places, int64_t inputs, int64_t outputs, int64_t threads) {
  using V = typename Vector<T>::type;
  constexpr int width = Vector<T>::width;
  const int64_t count = (inputs + width - 1) / width, blocks = table.blocks();
  if (blocks == 0) return;
  const int64_t shares = std::min(count, (8 * threads + blocks - 1) / blocks);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::unique_ptr<T[]> products(new T[chunk * width]), sums(new T[places * width]);
    const T* in[chunk];
    T* out[chunk];
    for (int i = 0; i < chunk; ++i) out[i] = &products[i * width];
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < blocks * shares; ++task) {
      const int64_t block = task / shares, share = task % shares;
      const int64_t rows = std::min(table.height, table.size - block * table.height);
      T* base = data + block * table.height * inputs;
      for (int64_t panel = share * count / shares; panel < (share + 1) * count / shares; ++panel) {
        const int64_t left = panel * width;
        const int valid = static_cast<int>(std::min<int64_t>(width, inputs - left));
        for (int64_t r = 0; r < rows; ++r) std::memset(base + r * inputs + left, 0, valid * sizeof(T));
        std::memset(sums.get(), 0, places * width * sizeof(T));
        for (int64_t column = 0; column < table.columns; ++column) {
          const int32_t* edge = table.edges + block * table.columns + column;
          const T* matrix = panels + (column * count + panel) * outputs * width;
          for (int64_t start = edge[0]; start < edge[1]; start += chunk) {
            const int bags = static_cast<int>(std::min<int64_t>(chunk, edge[1] - start));
            for (int i = 0; i < bags; ++i) in[i] = gradient + static_cast<int64_t>(table.rows[start + i]) * outputs;
            for (int i = 0; i < bags; i += tile)
              multiply_up_to<T, false>(std::min(tile, bags - i), in + i, matrix, outputs, out + i, width);
            for (int i = 0; i < bags; ++i) {
              for (int32_t m = table.offsets[start + i]; m < table.offsets[start + i + 1]; ++m) {
                const int64_t at = static_cast<int64_t>(table.members[m]) * inputs + left;
                const int64_t place = table.places[m];
                const T* weights = table.weights + (ByChannel ? place * inputs + left : place);
                const auto weight = [=](int n) { return weights[ByChannel ? n : 0]; };
                T* sum = &sums[place * width];
                if (valid == width) {
                  const V *v = reinterpret_cast<const V*>(out[i]), *x = reinterpret_cast<const V*>(features + at);
                  V *y = reinterpret_cast<V*>(data + at), *s = reinterpret_cast<V*>(sum);
                  if constexpr (ByChannel) {
                    const V* w = reinterpret_cast<const V*>(weights);
                    y[0] += w[0] * v[0];
                    y[1] += w[1] * v[1];
                  } else {
                    y[0] += *weights * v[0];
                    y[1] += *weights * v[1];
                  }
                  s[0] += v[0] * x[0];
                  s[1] += v[1] * x[1];
                } else {
                  for (int n = 0; n < valid; ++n) {
                    data[at + n] += weight(n) * out[i][n];
                    sum[n] += out[i][n] * features[at + n];
                  }
                }
              }
            }
          }
        }
        for (int64_t place = 0; place < places; ++place) {
          const T* of_place = &sums[place * width];
          if (ByChannel) {
            std::copy(of_place, of_place + valid, parts + (block * places + place) * inputs + left);
            continue;
          }
          T total = 0;
          for (int n = 0; n < width; ++n) total += of_place[n];
          parts[(block * count + panel) * places + place] = total;
        }
      }
    }
  }
}

// Calls each(row, read, depth) for the rows of a block, where read(d) is what the row reads through tap d of a column.
template <typename Each>
inline void for_rows(const int32_t* reads, const int32_t* taps, int64_t size, int64_t depth, int64_t start, int64_t rows,
                     Each each) {
  for (int64_t r = 0; r < rows; ++r)
    each(r, [=](int64_t d) { return reads[taps[d] * size + start + r]; }, depth);
}

}  // namespace

// How many bags there are: edges [blocks · columns + 1], the first of each column of each block; firsts [blocks + 1],
// the first member of each block. reads: [taps][size]; taps: [columns][depth].
extern "C" void count_bags(const int32_t* reads, const int32_t* taps, int64_t size, int64_t columns, int64_t depth,
                           int64_t height, int32_t* edges, int64_t* firsts, int64_t threads) {
  const int64_t blocks = (size + height - 1) / height;
  edges[0] = 0;
  firsts[0] = 0;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t start = block * height, rows = std::min(height, size - start);
    int64_t members = 0;
    for (int64_t column = 0; column < columns; ++column) {
      int32_t bags = 0;
      for_rows(reads, taps + column * depth, size, depth, start, rows, [&](int64_t, auto read, int64_t taken) {
        int found = 0;
        for (int64_t d = 0; d < taken; ++d) found += read(d) >= 0;
        members += found;
        bags += found > 0;
      });
      edges[block * columns + column + 1] = bags;
    }
    firsts[block + 1] = members;
  }
  for (int64_t i = 0; i < blocks * columns; ++i) edges[i + 1] += edges[i];
  for (int64_t i = 0; i < blocks; ++i) firsts[i + 1] += firsts[i];
}

// Then the bags themselves, as `Table` has them.
extern "C" void fill_bags(const int32_t* reads, const int32_t* taps, int64_t size, int64_t columns, int64_t depth,
                          int64_t height, const int32_t* edges, const int64_t* firsts, int32_t* members,
                          int32_t* places, int32_t* offsets, int32_t* rows, int64_t threads) {
  const int64_t blocks = (size + height - 1) / height;
  offsets[edges[blocks * columns]] = static_cast<int32_t>(firsts[blocks]);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t start = block * height;
    int64_t member = firsts[block], bag = edges[block * columns];
    for (int64_t column = 0; column < columns; ++column)
      for_rows(reads, taps + column * depth, size, depth, start, std::min(height, size - start),
               [&](int64_t row, auto read, int64_t taken) {
                 const int64_t first = member;
                 for (int64_t d = 0; d < taken; ++d) {
                   const int32_t found = read(d);
                   if (found < 0) continue;
                   if (places != nullptr) places[member] = static_cast<int32_t>(d);
                   members[member++] = found;
                 }
                 if (member == first) return;
                 offsets[bag] = static_cast<int32_t>(first);
                 rows[bag++] = static_cast<int32_t>(row);
               });
  }
}

// The same for bags that are spread (`depth_gradient`): reads [taps][size] names the row of the result, one of `targets`,
// that reads each feature. Bags stand in the order in which their first members do.
extern "C" void count_spread(const int32_t* reads, const int32_t* taps, int64_t size, int64_t targets, int64_t columns,
                             int64_t depth, int64_t height, int32_t* edges, int64_t* firsts, int64_t threads) {
  const int64_t blocks = (size + height - 1) / height;
  edges[0] = 0;
  firsts[0] = 0;
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::vector<int32_t> seen(targets, -1);  // the last part, a column of a block, that had each target
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t start = block * height, rows = std::min(height, size - start);
      int64_t members = 0;
      for (int64_t column = 0; column < columns; ++column) {
        const auto part = static_cast<int32_t>(block * columns + column);
        int32_t bags = 0;
        for_rows(reads, taps + column * depth, size, depth, start, rows, [&](int64_t, auto read, int64_t taken) {
          for (int64_t d = 0; d < taken; ++d) {
            const int32_t target = read(d);
            if (target < 0) continue;
            ++members;
            bags += seen[target] != part;
            seen[target] = part;
          }
        });
        edges[part + 1] = bags;
      }
      firsts[block + 1] = members;
    }
  }
  for (int64_t i = 0; i < blocks * columns; ++i) edges[i + 1] += edges[i];
  for (int64_t i = 0; i < blocks; ++i) firsts[i + 1] += firsts[i];
}

extern "C" void fill_spread(const int32_t* reads, const int32_t* taps, int64_t size, int64_t targets, int64_t columns,
                            int64_t depth, int64_t height, const int32_t* edges, const int64_t* firsts,
                            int32_t* members, int32_t* places, int32_t* offsets, int32_t* rows, int64_t threads) {
  const int64_t blocks = (size + height - 1) / height;
  offsets[edges[blocks * columns]] = static_cast<int32_t>(firsts[blocks]);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    std::vector<int32_t> bag_of(targets, -1), next;  // bags have larger numbers in every later part
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t start = block * height, taken_rows = std::min(height, size - start);
      int64_t member = firsts[block];
      for (int64_t column = 0; column < columns; ++column) {
        const int32_t first = edges[block * columns + column];
        int32_t bag = first;
        next.assign(edges[block * columns + column + 1] - first, 0);
        const auto each_pair = [&](auto visit) {
          for_rows(reads, taps + column * depth, size, depth, start, taken_rows,
                   [&](int64_t row, auto read, int64_t taken) {
                     for (int64_t d = 0; d < taken; ++d)
                       if (read(d) >= 0) visit(start + row, d, read(d));
                   });
        };
        each_pair([&](int64_t, int64_t, int32_t target) {
          if (bag_of[target] < first) {
            bag_of[target] = bag;
            rows[bag++] = target;
          }
          ++next[bag_of[target] - first];
        });
        for (int32_t i = first; i < bag; ++i) {
          offsets[i] = static_cast<int32_t>(member);
          member += next[i - first];
          next[i - first] = offsets[i];
        }
        each_pair([&](int64_t row, int64_t d, int32_t target) {
          const int32_t at = next[bag_of[target] - first]++;
          members[at] = static_cast<int32_t>(row);
          places[at] = static_cast<int32_t>(d);
        });
      }
    }
  }
}

#define TABLE(T)                                                                                                  \
  const int32_t *members, const int32_t *offsets, const int32_t *rows, const int32_t *edges,                      \
      const int32_t *places, const T *weights, int64_t by_channel, int64_t size, int64_t height, int64_t columns
#define GIVEN \
  { members, offsets, rows, edges, places, weights, by_channel, size, height, columns }
#define ENTRIES(T, NAME)                                                                                          \
  extern "C" int width_##NAME(int64_t) { return Vector<T>::width; }                                               \
  extern "C" void convolve_##NAME(TABLE(T), const T* features, const T* panels, T* output, int64_t inputs,        \
                                  int64_t outputs, int64_t reversed, int64_t threads) {                           \
    convolve<T>(GIVEN, features, panels, output, inputs, outputs, reversed != 0, threads);                        \
  }                                                                                                               \
  extern "C" void pack_##NAME(const T* kernel, T* panels, int64_t taps, int64_t inputs, int64_t outputs,          \
                              int64_t in, int64_t out, int64_t threads) {                                         \
    pack<T>(kernel, panels, taps, inputs, outputs, in, out, threads);                                             \
  }                                                                                                               \
  extern "C" void unpack_##NAME(const T* matrices, T* kernel, int64_t taps, int64_t inputs, int64_t outputs,      \
                                int64_t threads) {                                                                \
    unpack<T>(matrices, kernel, taps, inputs, outputs, threads);                                                  \
  }                                                                                                               \
  extern "C" void gradient_##NAME(TABLE(T), const T* features, const T* gradient, T* kernel, int64_t inputs,      \
                                  int64_t outputs, int64_t threads) {                                             \
    weight_gradient<T>(GIVEN, features, gradient, kernel, inputs, outputs, threads);                              \
  }                                                                                                               \
  extern "C" void depth_##NAME(TABLE(T), const T* features, const T* gradient, const T* panels, T* data,          \
                               T* parts, int64_t depth, int64_t inputs, int64_t outputs, int64_t threads) {       \
    (by_channel ? depth_gradient<T, true> : depth_gradient<T, false>)(GIVEN, features, gradient, panels, data,    \
                                                                      parts, depth, inputs, outputs, threads);    \
  }

ENTRIES(float, float32)
ENTRIES(double, float64)
