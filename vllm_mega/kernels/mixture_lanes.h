// The kernel for every processor: products on the lanes of vector registers.
//
// A: [rank, inputs], by rows. B: kernels/cpu.py, `blocked`. Sums begin with y; a token's groups and their ranks
// follow each other in order.

#pragma once

#include "mixture.h"
#include "mixture_simd.h"

namespace {

// The share of one of several equal pieces of work in fetching from memory what comes next: pieces
// [piece / pieces, (piece + 1) / pieces) of it. Spread evenly over the products, for a burst holds them up.
struct Share {
  int64_t piece, pieces;
  int64_t begin(int64_t all) const { return all * piece / pieces; }
  int64_t end(int64_t all) const { return all * (piece + 1) / pieces; }
};

// hidden[n][0..R) = weight[n] * A[0..R) . x[n], for N tokens and R rows of A. `next`, where not null: as many
// rows to fetch.
template <int N, int R, typename T>
inline void dots(const T* a, int64_t inputs, const T* const* x, const float* weight, T* const* hidden,
                 const T* next, Share share) {
  constexpr int kStep = kLanes * kPair<T>, kSums = (N * R + kLanes - 1) / kLanes * kLanes;
  Floats sums[kSums] = {};
  const auto add = [&](auto load_at) {
    Words row[R];
    for (int r = 0; r < R; ++r) row[r] = load_at(a + r * inputs);
    for (int n = 0; n < N; ++n) {
      const Words value = load_at(x[n]);
      for (int r = 0; r < R; ++r) sums[n * R + r] = multiply<T>(value, row[r], sums[n * R + r]);
    }
  };
  const int64_t from = next ? share.begin(inputs) : 0, to = next ? share.end(inputs) : 0;
  int64_t i = 0;
  for (; i + kStep <= inputs; i += kStep) {
    add([i](const T* p) { return load(p + i); });
    if (i >= from && i < to)
      for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * inputs + i);
  }
  const int64_t rest = (inputs - i) * sizeof(T);
  if (rest) add([i, rest](const T* p) { return load_first(p + i, rest); });
  float scale[kSums] = {};
  T rounded[kSums];
  for (int l = 0; l < N * R; ++l) scale[l] = weight[l / R];
  for (int l = 0; l < kSums; l += kLanes) {
    sum_lanes(sums + l);
    write(rounded + l, sums[l] * read(scale + l));
  }
  for (int n = 0; n < N; ++n) std::memcpy(hidden[n], rounded + n * R, R * sizeof(T));
}

template <int N, typename T>
inline void all_dots(const T* a, int64_t inputs, int64_t first, int64_t last, const T* const* x, const float* weight,
                 T* const* hidden, const T* next, Share share) {
  T* to[N];
  const auto some = [&](auto count) {
    constexpr int R = decltype(count)::value;
    for (; first + R <= last; first += R) {
      for (int n = 0; n < N; ++n) to[n] = hidden[n] + first;
      const T* following = first + R < last ? a + (first + R) * inputs : next;
      dots<N, R>(a + first * inputs, inputs, x, weight, to, following, share);
    }
  };
  some(std::integral_constant<int, kRows>());
  if (kRows > 2) some(std::integral_constant<int, 2>());
  some(std::integral_constant<int, 1>());
}

// sums[n][0..kColumns) += sum_r hidden[n][r] * b[r][0..kColumns), for N tokens and a block of B.
template <int N, typename T>
inline void outer(const T* b, int64_t pairs, const T* const* hidden, float* const* sums, const T* next,
                  Share share) {
  constexpr int kWide = kRows;  // registers of columns: as many sums as in `dots`
  const int64_t from = next ? share.begin(pairs) : 0, to = next ? share.end(pairs) : 0;
  for (int c = 0; c < kColumns; c += kWide * kLanes) {
    Floats sum[N][kWide];
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < kWide; ++v) sum[n][v] = (Floats)load(sums[n] + c + v * kLanes);
    for (int64_t r = 0; r < pairs; ++r) {
      Words block[kWide];
      for (int v = 0; v < kWide; ++v) {
        const int64_t at = (r * kColumns + c + v * kLanes) * kPair<T>;
        block[v] = load(b + at);
        if (r >= from && r < to) __builtin_prefetch(next + at);
      }
      for (int n = 0; n < N; ++n) {
        const Words h = spread(hidden[n] + r * kPair<T>);
        for (int v = 0; v < kWide; ++v) sum[n][v] = multiply<T>(h, block[v], sum[n][v]);
      }
    }
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < kWide; ++v) *reinterpret_cast<Floats*>(sums[n] + c + v * kLanes) = sum[n][v];
  }
}

template <typename T>
class Lanes {
 public:
  using Type = T;
  struct Registers {  // nothing to prepare in a thread
    Registers() {}
  };

  // `rank`: the largest that the step uses.
  Lanes(const Layer& layer, const Step& step, const Rows<T>& rows, int64_t rank)
      : layer_(layer), step_(step), rows_(rows), hidden_stride_(pairs(rank) * kPair<T>) {}

  // Entry e of a tile has its hidden values of slice p at hidden[(p * entries + e) * hidden_stride].
  int64_t hidden_size(int64_t tile) const { return layer_.slices * entries(tile) * hidden_stride_; }

  // This thread's share of A: every `parts`-th block of rows.
  void shrink(int64_t tile, T* hidden, int64_t part, int64_t parts) const {
    int64_t number = 0;
    Strip strip{};
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g)
      for (int64_t p = 0; p < layer_.slices; ++p) {
        const int64_t rank = layer_.rank(step_.group_slot[g], p);
        const int64_t block = (rank + 4 * parts - 1) / (4 * parts) * 4;
        for (int64_t r = 0; r < rank; r += block)
          if (number++ % parts == part) {
            const Strip next{layer_.a<T>(step_.group_slot[g], p), g, p, r, std::min(r + block, rank)};
            if (strip.a) shrink_group(tile, strip, next.a + r * layer_.inputs, hidden);
            strip = next;
          }
      }
    if (strip.a) shrink_group(tile, strip, nullptr, hidden);
  }

  // This thread's share of y.
  void expand(int64_t tile, const T* hidden, int64_t part, int64_t parts) const {
    column_blocks(layer_, part, parts,
                  [&](int64_t p, int64_t offset, int64_t column) { expand_block(tile, p, offset, column, hidden); });
  }

 private:
  struct Strip {  // rows of lora_A, for the tokens of a group
    const T* a;
    int32_t group;
    int64_t slice, first, last;
  };

  static int64_t pairs(int64_t rank) { return (rank + kPair<T> - 1) / kPair<T>; }
  int64_t entries(int64_t tile) const { return step_.last_entry(tile) - step_.first_entry(tile); }

  // Calls f(number of tokens, first entry) for every few tokens of a group, the number as a constant.
  template <typename F>
  void few(int32_t g, const F& f) const {
    int32_t e = step_.group_entry[g];
    const int32_t end = step_.group_entry[g + 1];
    for (; e + kTokens <= end; e += kTokens) f(std::integral_constant<int, kTokens>(), e);
    if (end - e == 3) f(std::integral_constant<int, 3>(), e);
    if (end - e == 2) f(std::integral_constant<int, 2>(), e);
    if (end - e == 1) f(std::integral_constant<int, 1>(), e);
  }

  Share share(int32_t g, int32_t e) const {
    const int32_t first = step_.group_entry[g];
    return {(e - first) / kTokens, (step_.group_entry[g + 1] - first + kTokens - 1) / kTokens};
  }

  void shrink_group(int64_t tile, const Strip& of, const T* next, T* hidden) const {
    T* base = hidden + (of.slice * entries(tile) - step_.first_entry(tile)) * hidden_stride_;
    few(of.group, [&](auto count, int32_t e) {
      constexpr int N = decltype(count)::value;
      const T* x[N];
      T* to[N];
      for (int i = 0; i < N; ++i) {
        x[i] = rows_.x + step_.entry_token[e + i] * rows_.x_stride;
        to[i] = base + (e + i) * hidden_stride_;
        if (of.last % kPair<T>) to[i][of.last] = T{};  // a last pair is whole
      }
      all_dots<N>(of.a, layer_.inputs, of.first, of.last, x, step_.entry_weight + e, to, next, share(of.group, e));
    });
  }

  void expand_block(int64_t tile, int64_t p, int64_t offset, int64_t column, const T* hidden) const {
    alignas(64) float sums[kTile][kColumns];
    const int64_t width = std::min<int64_t>(kColumns, layer_.outputs[p] - column);
    const int32_t first = step_.first_token(tile);
    const T* base = hidden + (p * entries(tile) - step_.first_entry(tile)) * hidden_stride_;
    uint32_t touched = 0;  // a token without a weight here keeps its very bits
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g) {
      const int32_t slot = step_.group_slot[g];
      const int64_t rank = pairs(layer_.rank(slot, p)), size = rank * kPair<T> * kColumns;
      if (rank == 0) continue;
      const T* b = layer_.b<T>(slot, p) + column / kColumns * size;
      const bool more = column + kColumns < layer_.outputs[p];
      few(g, [&](auto count, int32_t e) {
        constexpr int N = decltype(count)::value;
        const T* from[N];
        float* to[N];
        for (int i = 0; i < N; ++i) {
          const int32_t token = step_.entry_token[e + i], row = token - first;
          from[i] = base + (e + i) * hidden_stride_;
          to[i] = sums[row];
          if (!(touched >> row & 1)) {
            const T* y = rows_.y + token * rows_.y_stride + offset + column;
            for (int64_t c = 0; c < width; c += kLanes)
              write(sums[row] + c, width - c < kLanes ? read(y + c, width - c) : read(y + c));
            touched |= 1u << row;
            if (more)
              for (size_t c = 0; c < kColumns; c += 64 / sizeof(T)) __builtin_prefetch(y + kColumns + c, 1);
          }
        }
        outer<N>(b, rank, from, to, more ? b + size : nullptr, share(g, e));
      });
    }
    for (int row = 0; row < kTile; ++row)
      if (touched >> row & 1) {
        T* y = rows_.y + (first + row) * rows_.y_stride + offset + column;
        for (int64_t c = 0; c < width; c += kLanes)
          if (width - c < kLanes) write(y + c, read(sums[row] + c), width - c);
          else write(y + c, read(sums[row] + c));
      }
  }

  const Layer& layer_;
  const Step& step_;
  const Rows<T>& rows_;
  int64_t hidden_stride_;
};

}  // namespace
