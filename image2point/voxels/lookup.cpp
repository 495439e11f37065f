// Neighbour lookups on a CPU; see lookup.py and plan.py, which call this.
//
// Sites and targets are sorted by (batch, x, y, z). Through one pillar of a window (its taps along z), consecutive
// targets therefore read places in increasing order, and one walk along the sites finds them all: time is linear in the
// number of voxels, and memory is touched in order, however large the box around them.
#include <algorithm>
#include <cstdint>

namespace {

struct Place {
  int64_t batch, x, y, z;
};

// Whether a site [batch, x, y, z] stands before a place, and whether in its column.
inline bool before(const int32_t* site, const Place& place) {
  if (site[0] != place.batch) return site[0] < place.batch;
  if (site[1] != place.x) return site[1] < place.x;
  if (site[2] != place.y) return site[2] < place.y;
  return site[3] < place.z;
}

inline bool beside(const int32_t* site, const Place& place) {
  return site[2] == place.y && site[1] == place.x && site[0] == place.batch;
}

constexpr int64_t part = 4096;  // targets that one task looks up, after one binary search

}  // namespace

// reads: [kx · ky · kz][targets], the row of the site at stride · target − padding + tap · dilation, −1 for none.
// mirrored: targets are the sites, and the window is centred on them. Then a site reads through the opposite tap what
// reads it, so that half of the pillars need no walk.
extern "C" void look_up(const int32_t* sites, int64_t count, const int32_t* targets, int64_t size, int64_t kx, int64_t ky,
                        int64_t kz, int64_t stride, int64_t px, int64_t py, int64_t pz, int64_t dilation, int64_t mirrored,
                        int32_t* reads, int64_t threads) {
  const int64_t pillars = kx * ky, walked = mirrored ? (pillars + 1) / 2 : pillars, taps = pillars * kz;
  const int64_t parts = (size + part - 1) / part, tasks = walked * parts;
  std::fill(reads + walked * kz * size, reads + taps * size, -1);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t pillar = task / parts, first = task % parts * part, last = std::min(first + part, size);
    const int64_t dx = pillar / ky * dilation - px, dy = pillar % ky * dilation - py;
    const bool mirror = pillars - 1 - pillar >= walked;
    const auto place = [=](int64_t target) {
      const int32_t* t = targets + 4 * target;
      return Place{t[0], t[1] * stride + dx, t[2] * stride + dy, t[3] * stride - pz};
    };
    int64_t row = 0;
    for (int64_t length = count, start = first; length > 0;) {
      const int64_t half = length / 2;
      if (before(sites + 4 * (row + half), place(start))) {
        row += half + 1;
        length -= half + 1;
      } else {
        length = half;
      }
    }
    int32_t nowhere;
    for (int64_t target = first; target < last; ++target) {
      const Place lowest = place(target);
      while (row < count && before(sites + 4 * row, lowest)) ++row;
      int64_t at = row;
      for (int64_t k = 0; k < kz; ++k) {
        const int64_t tap = pillar * kz + k, z = lowest.z + k * dilation;
        while (at < count && beside(sites + 4 * at, lowest) && sites[4 * at + 3] < z) ++at;
        const bool found = at < count && sites[4 * at + 3] == z && beside(sites + 4 * at, lowest);
        reads[tap * size + target] = found ? static_cast<int32_t>(at) : -1;
        *(found && mirror ? reads + (taps - 1 - tap) * size + at : &nowhere) = static_cast<int32_t>(target);
      }
    }
  }
}

// reverse: [taps][sources], the target that reads each source through each tap, −1 for none.
extern "C" void read_by(const int32_t* reads, int64_t taps, int64_t size, int64_t sources, int32_t* reverse,
                        int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
  for (int64_t tap = 0; tap < taps; ++tap) {
    int32_t *back = reverse + tap * sources, nowhere;
    std::fill_n(back, sources, -1);
    for (int64_t target = 0; target < size; ++target) {
      const int32_t source = reads[tap * size + target];
      *(source >= 0 ? back + source : &nowhere) = static_cast<int32_t>(target);
    }
  }
}
