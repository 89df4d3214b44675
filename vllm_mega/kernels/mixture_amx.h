// The kernel for bfloat16 on processors with AMX: products of 16 tokens at once in its tile registers.
//
// A: kernels/cpu.py, `paneled`. B: `blocked`. All tokens of a tile are multiplied with every adapter that one of
// them uses, and what is not asked for gets the weight 0: weights must be finite. An adapter's share of a sum
// begins at 0 and is added in one piece (two for a rank above 32, and so on), so no token sees the others.

#pragma once

#include "mixture.h"
#include "mixture_registers.h"

#if defined(MEGA_AMX)

#include <vector>

namespace {

constexpr int kAhead = 4;  // products between fetching a weight and using it

class Amx {
  using T = BFloat16;

 public:
  using Type = T;
  using Registers = ::Registers;

  // `rank`: the largest that the step uses.
  Amx(const Layer& layer, const Step& step, const Rows<T>& rows, int64_t rank)
      : layer_(layer), step_(step), rows_(rows), pairs_(std::min<int64_t>(kDepth, rank + 1) / 2),
        stride_((rank + 2 * pairs_ - 1) / (2 * pairs_) * 2 * pairs_) {}

  // Token t of a tile has its hidden values of slice p and group g at ((p * groups + g) * kTile + t) * stride.
  int64_t hidden_size(int64_t tile) const { return layer_.slices * groups(tile) * kTile * stride_; }

  // This thread's share of A: adjacent panels of 16 ranks.
  void shrink(int64_t tile, T* hidden, int64_t part, int64_t parts) const {
    static thread_local std::vector<Panel> panels;
    panels.clear();
    for (int64_t p = 0; p < layer_.slices; ++p)
      for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g)
        for (int64_t r = 0; r < layer_.rank(step_.group_slot[g], p); r += kSide) panels.push_back(panel(p, g, r));
    const int64_t begin = panels.size() * part / parts, end = panels.size() * (part + 1) / parts;
    const Tokens tokens = tokens_of(tile);
    alignas(64) T tail[kTile * kDepth];
    if (layer_.inputs % kDepth) copy_tail(tokens, tail);
    written(tail);
    tokens.configure(kDepth / 2);
    for (int64_t i = begin; i < end; i += tokens.columns())
      shrink_panels(tile, tokens, panels.data() + i, end - i, tail, hidden);
  }

  // This thread's share of y.
  void expand(int64_t tile, const T* hidden, int64_t part, int64_t parts) const {
    const Tokens tokens = tokens_of(tile);
    const uint32_t touched = touched_tokens(tile);
    alignas(64) float sums[4 * kSide * kSide];
    int64_t last = 0, width = 0;  // columns of y that `sums` is for
    tokens.configure(pairs_);
    column_blocks(layer_, part, parts, [&](int64_t p, int64_t offset, int64_t column) {
      const int64_t end = std::min(column + kColumns, layer_.outputs[p]), step = tokens.columns() * kSide;
      for (int64_t c = column; c < end; c += step) {
        multiply_block(tile, tokens, p, c, std::min(step, end - c), hidden);
        add_to_y(tokens, touched, last, width, sums);  // while the products of the next are on their way
        store_sums(sums);
        last = offset + c, width = std::min(step, end - c);
      }
    });
    add_to_y(tokens, touched, last, width, sums);
  }

 private:
  struct Panel {  // 16 ranks of lora_A, or what is left
    const T* a;
    int64_t slice, first, rank;
    int32_t group;

    int64_t width() const { return std::min<int64_t>(kSide, rank - first); }
  };

  int64_t groups(int64_t tile) const { return step_.tile_group[tile + 1] - step_.tile_group[tile]; }

  Tokens tokens_of(int64_t tile) const {
    const int64_t first = step_.first_token(tile);
    const int count = std::min<int64_t>(kTile, rows_.count - first);
    return {first, {std::min(count, kSide), std::max(count - kSide, 0)}};
  }

  uint32_t touched_tokens(int64_t tile) const {
    uint32_t found = 0;
    for (int32_t e = step_.first_entry(tile); e < step_.last_entry(tile); ++e)
      found |= 1u << step_.entry_token[e] % kTile;
    return found;
  }

  int64_t depth() const { return (layer_.inputs + kDepth - 1) / kDepth; }

  Panel panel(int64_t p, int32_t g, int64_t first) const {
    const int32_t slot = step_.group_slot[g];
    return {layer_.a<T>(slot, p) + first * depth() * kDepth, p, first, layer_.rank(slot, p), g};
  }

  // The last inputs, with zeros to a whole register: behind them lies another token, or nothing.
  void copy_tail(const Tokens& tokens, T* tail) const {
    const int64_t at = layer_.inputs / kDepth * kDepth;
    std::memset(tail, 0, kTile * kDepth * sizeof(T));
    for (int t = 0; t < tokens.count[0] + tokens.count[1]; ++t)
      std::memcpy(tail + t * kDepth, rows_.x + (tokens.first + t) * rows_.x_stride + at,
                  (layer_.inputs - at) * sizeof(T));
  }

  // The first panels of `left` that there are: as many as there are columns of registers.
  void shrink_panels(int64_t tile, const Tokens& tokens, const Panel* panels, int64_t left, const T* tail,
                     T* hidden) const {
    alignas(64) float sums[4 * kSide * kSide];
    const int count = std::min<int64_t>(tokens.columns(), left);
    zero_sums();
    if (tokens.two()) sum_inputs<true>(tokens, panels, count, left, tail);
    else sum_inputs<false>(tokens, panels, count, left, tail);
    store_sums(sums);
    for (int i = 0; i < count; ++i)
      write_hidden(tile, tokens, panels[i], sums + i * (4 / tokens.columns()) * kSide * kSide, hidden);
  }

  template <bool kTwo>
  void sum_inputs(const Tokens& tokens, const Panel* panels, int count, int64_t left, const T* tail) const {
    const T *right[4], *next[4];
    int64_t strides[4];
    for (int i = 0; i < count; ++i) {
      right[i] = panels[i].a;
      next[i] = panels[i + count < left ? i + count : i].a;  // to fetch
      strides[i] = panels[i].width() * 4;
    }
    const T* x = rows_.x + tokens.first * rows_.x_stride;
    const int64_t whole = layer_.inputs / kDepth, all = depth();
    for (int64_t k = 0; k < all; ++k) {
      const bool last = k == whole;
      multiply<kTwo>(last ? tail : x + k * kDepth, last ? kDepth * 2 : rows_.x_stride * 2, right, strides, count);
      for (int i = 0; i < count; ++i) {
        const int64_t size = strides[i] / 2 * kSide;
        right[i] += size;
        prefetch(k + kAhead < all ? right[i] + (kAhead - 1) * size : next[i] + (k + kAhead - all) * size, size);
      }
    }
  }

  // Times the weights of the tokens, rounded; zeros for those that do not use the adapter, and up to a whole depth.
  void write_hidden(int64_t tile, const Tokens& tokens, const Panel& of, const float* sums, T* hidden) const {
    float weight[kTile] = {};
    uint32_t used = 0;
    for (int32_t e = step_.group_entry[of.group]; e < step_.group_entry[of.group + 1]; ++e) {
      const int t = step_.entry_token[e] % kTile;
      weight[t] = step_.entry_weight[e];
      used |= 1u << t;
    }
    const int64_t chunk = 2 * pairs_, end = (of.rank + chunk - 1) / chunk * chunk;
    const int64_t to = of.first + kSide < of.rank ? of.first + kSide : end;
    T* row = hidden + (of.slice * groups(tile) + of.group - step_.tile_group[tile]) * kTile * stride_;
    for (int t = 0; t < tokens.count[0] + tokens.count[1]; ++t) {
      const __mmask16 valid = used >> t & 1 ? first_lanes(of.width()) : 0;
      const __m512 sum = _mm512_maskz_mul_ps(valid, _mm512_load_ps(sums + t * kSide), _mm512_set1_ps(weight[t]));
      _mm256_mask_storeu_epi16(row + t * stride_ + of.first, first_lanes(to - of.first),
                               (__m256i)_mm512_cvtneps_pbh(sum));
      if (to > of.first + kSide) std::memset(row + t * stride_ + of.first + kSide, 0, (to - of.first - kSide) * 2);
    }
  }

  // sums = all groups' hidden values times their B, for `width` columns of slice p.
  void multiply_block(int64_t tile, const Tokens& tokens, int64_t p, int64_t column, int64_t width,
                      const T* hidden) const {
    const int columns = (width + kSide - 1) / kSide;
    const T* left = hidden + p * groups(tile) * kTile * stride_;
    zero_sums();
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g, left += kTile * stride_) {
      const int32_t slot = step_.group_slot[g];
      const int64_t pairs = (layer_.rank(slot, p) + 1) / 2;
      const T* b = layer_.b<T>(slot, p) + column / kColumns * pairs * 2 * kColumns + column % kColumns * 2;
      for (int64_t r = 0; r < pairs; ++r)
        prefetch(b + (r + pairs) * 2 * kColumns, columns * kSide * 2);
      for (int64_t r = 0; r < pairs; r += pairs_)
        multiply_pairs(tokens, left + 2 * r, b + r * 2 * kColumns, std::min(pairs_, pairs - r), columns);
    }
  }

  void multiply_pairs(const Tokens& tokens, const T* left, const T* b, int64_t pairs, int columns) const {
    alignas(64) T whole[4 * kDepth * kSide];
    if (pairs < pairs_) {  // of a smaller rank than the largest: with zeros
      std::memset(whole, 0, sizeof(whole));
      for (int64_t r = 0; r < pairs; ++r)
        std::memcpy(whole + r * 2 * kColumns, b + r * 2 * kColumns, columns * kSide * 2 * sizeof(T));
      b = whole;
    }
    const T* right[4] = {b, b + 2 * kSide, b + 4 * kSide, b + 6 * kSide};
    constexpr int64_t kStride = 2 * kColumns * sizeof(T), kStrides[4] = {kStride, kStride, kStride, kStride};
    written(b);
    if (tokens.two()) multiply<true>(left, stride_ * 2, right, kStrides, columns);
    else multiply<false>(left, stride_ * 2, right, kStrides, columns);
  }

  // A token without a mixture keeps its very bits.
  void add_to_y(const Tokens& tokens, uint32_t touched, int64_t column, int64_t width, const float* sums) const {
    const int apart = 4 / tokens.columns() * kSide * kSide;  // from a column of registers to the next
    for (; touched; touched &= touched - 1) {
      const int t = __builtin_ctz(touched);
      T* y = rows_.y + (tokens.first + t) * rows_.y_stride + column;
      const float* row = sums + t * kSide;
      prefetch(y + 2 * width, width);
      int64_t c = 0;
      for (; c + kSide <= width; c += kSide, row += apart) {
        const __m512 old = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + c)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + c),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(old, _mm512_load_ps(row))));
      }
      if (c < width) {
        const __mmask16 mask = first_lanes(width - c);
        const __m512 old = widen(_mm256_maskz_loadu_epi16(mask, y + c));
        _mm256_mask_storeu_epi16(y + c, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(old, _mm512_load_ps(row))));
      }
    }
  }

  const Layer& layer_;
  const Step& step_;
  const Rows<T>& rows_;
  int64_t pairs_, stride_;  // of a product in `expand`; numbers from token to token of the hidden values
};

}  // namespace

#endif
