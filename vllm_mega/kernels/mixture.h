// What the kernels of mixture.cpp share: how a layer and a step are given. kernels/cpu.py has the layout of
// every argument.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

extern "C" {

// See kernels/cpu.py: Layer. `sizes`: slices, inputs, largest rank, slot stride, outputs of every slice.
// `table`, [slots, slices, 3]: address of A, address of B, rank (0: nothing).
struct RawLayer {
  const int64_t* sizes;
  const int64_t* table;
};

// See kernels/cpu.py: Plan. `head`: tiles, tokens that the plan speaks of.
struct RawStep {
  const int64_t* head;
  const int32_t *tile_group, *group_slot, *group_entry, *entry_token;
  const float* entry_weight;
};
}

namespace {

constexpr int kColumns = 64;  // B lies in blocks of so many output features: kernels/cpu.py, COLUMNS
constexpr int kTile = 32;     // most tokens of a tile: kernels/cpu.py, TILE

struct Layer {
  explicit Layer(const RawLayer& raw)
      : slices(raw.sizes[0]), inputs(raw.sizes[1]), max_rank(raw.sizes[2]), slot_stride(raw.sizes[3]),
        outputs(raw.sizes + 4), table(raw.table) {}

  int64_t rank(int32_t slot, int64_t slice) const { return table[slot * slot_stride + slice * 3 + 2]; }
  template <typename T>
  const T* a(int32_t slot, int64_t slice) const {
    return reinterpret_cast<const T*>(table[slot * slot_stride + slice * 3]);
  }
  template <typename T>
  const T* b(int32_t slot, int64_t slice) const {
    return reinterpret_cast<const T*>(table[slot * slot_stride + slice * 3 + 1]);
  }

  int64_t slices, inputs, max_rank, slot_stride;
  const int64_t *outputs, *table;
};

struct Step : RawStep {
  explicit Step(const RawStep& raw) : RawStep(raw), tiles(head[0]), rows(head[1]) {}

  int32_t first_entry(int64_t tile) const { return group_entry[tile_group[tile]]; }
  int32_t last_entry(int64_t tile) const { return group_entry[tile_group[tile + 1]]; }
  // Tiles lie on multiples of kTile, so any of their tokens says where they begin.
  int32_t first_token(int64_t tile) const { return entry_token[first_entry(tile)] / kTile * kTile; }

  int64_t tiles, rows;
};

// Input and output of a layer, in rows that may lie apart.
template <typename T>
struct Rows {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride, count;
};

// Calls f(slice, first column of the slice in y, column in the slice) for this thread's share of the blocks of
// columns: adjacent ones, so that what is prefetched is its own.
template <typename F>
void column_blocks(const Layer& layer, int64_t part, int64_t parts, const F& f) {
  int64_t number = 0, offset = 0, blocks = 0;
  for (int64_t p = 0; p < layer.slices; ++p) blocks += (layer.outputs[p] + kColumns - 1) / kColumns;
  const int64_t first = blocks * part / parts, last = blocks * (part + 1) / parts;
  for (int64_t p = 0; p < layer.slices; ++p) {
    for (int64_t column = 0; column < layer.outputs[p]; column += kColumns, ++number)
      if (number >= first && number < last) f(p, offset, column);
    offset += layer.outputs[p];
  }
}

}  // namespace
