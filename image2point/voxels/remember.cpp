// A fingerprint of a weight's bytes; see remember.py.
//
// Two sums over all 32-bit words, each word times a multiplier of its place, modulo 2⁶⁴. Within a block the products are
// exact and not zero, and blocks are weighted by odd numbers: a write to one word changes both sums, always. Writes to
// several cancel out in both by chance alone, once in 2⁶² times.
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t block_words = 512;

// splitmix64 (Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014)
inline uint64_t mixed(uint64_t n) {
  n = (n + 1) * 0x9e3779b97f4a7c15u;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9u;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebu;
  return n ^ (n >> 31);
}

struct Multipliers {  // odd, of 32 bits
  uint64_t first[block_words], second[block_words];

  Multipliers() {
    for (int64_t i = 0; i < block_words; ++i) {
      const uint64_t bits = mixed(static_cast<uint64_t>(i));
      first[i] = (bits >> 32) | 1;
      second[i] = (bits & 0xffffffffu) | 1;
    }
  }
};

}  // namespace

extern "C" void fingerprint(const char* bytes, int64_t size, uint64_t* sums, int64_t threads) {
  static const Multipliers multipliers;
  constexpr int64_t block_bytes = block_words * 4;
  const int64_t blocks = (size + block_bytes - 1) / block_bytes;
  uint64_t first = 0, second = 0;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads)) reduction(+ : first, second) if (blocks > 64)
  for (int64_t block = 0; block < blocks; ++block) {
    uint32_t last[block_words];
    const char* start = bytes + block * block_bytes;
    const int64_t left = std::min(block_bytes, size - block * block_bytes);
    const uint32_t* words = reinterpret_cast<const uint32_t*>(start);
    if (left < block_bytes) {  // the last block is filled up with zeros
      std::memset(last, 0, sizeof last);
      std::memcpy(last, start, static_cast<size_t>(left));
      words = last;
    }
    uint64_t one = 0, two = 0;
    for (int64_t i = 0; i < block_words; ++i) {
      one += words[i] * multipliers.first[i];
      two += words[i] * multipliers.second[i];
    }
    const uint64_t bits = mixed(static_cast<uint64_t>(block) + block_words);
    first += one * (bits | 1);
    second += two * ((bits >> 1) | 1);
  }
  sums[0] = first;
  sums[1] = second;
}
