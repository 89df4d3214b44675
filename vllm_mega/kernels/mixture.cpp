// The CPU kernel: y[t] += sum_k w[t,k] * B[s] @ (A[s] @ x[t]), for one layer and all tokens of a step.
//
// kernels/native.py compiles this file for the machine it runs on and calls `mega_add_mixture_*`;
// kernels/cpu.py has the layout of every argument. Sums are float32 and in one order per token
// (slots ascending, ranks ascending), whatever else is in the batch; `y` is rounded once.

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;
constexpr int kColumns = 64;  // B lies in blocks of so many output features: kernels/cpu.py, COLUMNS
constexpr int kTile = 32;     // most tokens of a tile: kernels/cpu.py, TILE
constexpr int kTokens = 4;    // tokens that share one load of a weight
constexpr double kSerialWork = 1 << 16;  // multiply-adds below which waking the threads costs more

typedef float Floats __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(kBytes), may_alias));
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

inline float read(const float* p) { return *p; }
inline float read(const BFloat16* p) {
  const uint32_t word = uint32_t(p->bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
inline Floats load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline Floats load(const BFloat16* p) {
  const Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16;
  return (Floats)words;
}
inline void write(float* p, float value) { *p = value; }
inline void write(BFloat16* p, float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  // To nearest, ties to even; NaN keeps a bit that says so.
  p->bits = (word & 0x7fffffff) > 0x7f800000 ? uint16_t((word >> 16) | 0x40)
                                              : uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

// One rounding, and written out: left to the compiler, a token's last bits would depend on how many tokens
// share a load with it (hence -ffp-contract=off).
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
inline Floats spread(float value) { return value - Floats{}; }

inline float total(Floats v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

}  // namespace

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

struct Layer {
  explicit Layer(const RawLayer& raw)
      : slices(raw.sizes[0]), inputs(raw.sizes[1]), max_rank(raw.sizes[2]), slot_stride(raw.sizes[3]),
        outputs(raw.sizes + 4), table(raw.table) {}
  int64_t slices, inputs, max_rank, slot_stride;
  const int64_t *outputs, *table;
};

struct Step : RawStep {
  explicit Step(const RawStep& raw) : RawStep(raw), tiles(head[0]), rows(head[1]) {}
  int64_t tiles, rows;
};

inline int64_t rank_of(const Layer& layer, int32_t slot, int64_t slice) {
  return layer.table[slot * layer.slot_stride + slice * 3 + 2];
}
template <typename T>
inline const T* weights_of(const Layer& layer, int32_t slot, int64_t slice, int which) {
  return reinterpret_cast<const T*>(layer.table[slot * layer.slot_stride + slice * 3 + which]);
}

// hidden[i][0..R) = weight[i] * A[0..R) . x[i], for N tokens and R rows of A.
template <int N, int R, typename T>
inline void dots(const T* a, int64_t inputs, const T* const* x, const float* weight, float* const* hidden) {
  Floats sum[N][R] = {};
  int64_t i = 0;
  for (; i + kLanes <= inputs; i += kLanes) {
    Floats row[R];
    for (int r = 0; r < R; ++r) row[r] = load(a + r * inputs + i);
    for (int n = 0; n < N; ++n) {
      const Floats value = load(x[n] + i);
      for (int r = 0; r < R; ++r) sum[n][r] = fma(value, row[r], sum[n][r]);
    }
  }
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) {
      float dot = total(sum[n][r]);
      for (int64_t j = i; j < inputs; ++j) dot = __builtin_fmaf(read(a + r * inputs + j), read(x[n] + j), dot);
      hidden[n][r] = weight[n] * dot;
    }
}

template <int N, typename T>
inline void rows(const T* a, int64_t inputs, int64_t first, int64_t last, const T* const* x, const float* weight,
                 float* const* hidden) {
  float* to[N];
  int64_t r = first;
  for (; r + 2 <= last; r += 2) {
    for (int n = 0; n < N; ++n) to[n] = hidden[n] + r;
    dots<N, 2>(a + r * inputs, inputs, x, weight, to);
  }
  if (r < last) {
    for (int n = 0; n < N; ++n) to[n] = hidden[n] + r;
    dots<N, 1>(a + r * inputs, inputs, x, weight, to);
  }
}

// sums[i][0..width) += sum_r hidden[i][r] * b[r][0..width), for N tokens.
template <int N, typename T>
inline void outer(const T* b, int64_t rank, int64_t width, const float* const* hidden, float* const* sums) {
  constexpr int kStep = 2 * kLanes;
  int64_t c = 0;
  for (; c + kStep <= width; c += kStep) {
    Floats sum[N][2];
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < 2; ++v) sum[n][v] = load(sums[n] + c + v * kLanes);
    for (int64_t r = 0; r < rank; ++r) {
      const Floats low = load(b + r * width + c), high = load(b + r * width + c + kLanes);
      for (int n = 0; n < N; ++n) {
        const Floats h = spread(hidden[n][r]);
        sum[n][0] = fma(h, low, sum[n][0]);
        sum[n][1] = fma(h, high, sum[n][1]);
      }
    }
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < 2; ++v) *reinterpret_cast<Floats*>(sums[n] + c + v * kLanes) = sum[n][v];
  }
  for (; c < width; ++c)
    for (int n = 0; n < N; ++n) {
      float sum = sums[n][c];
      for (int64_t r = 0; r < rank; ++r) sum = __builtin_fmaf(hidden[n][r], read(b + r * width + c), sum);
      sums[n][c] = sum;
    }
}

template <typename T>
class Work {
 public:
  Work(const Layer& layer, const Step& step, const T* x, int64_t x_stride, T* y, int64_t y_stride)
      : layer_(layer), step_(step), x_(x), x_stride_(x_stride), y_(y), y_stride_(y_stride) {}

  // Entry e of a tile has its hidden values of slice p at hidden[(p * entries + e) * max_rank].
  int64_t entries(int64_t tile) const { return last_entry(tile) - first_entry(tile); }

  // This thread's share of A: every `parts`-th block of rows.
  void shrink(int64_t tile, float* hidden, int64_t part, int64_t parts) const {
    const int64_t block = parts > 1 ? 4 : layer_.max_rank;
    int64_t number = 0;
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g)
      for (int64_t p = 0; p < layer_.slices; ++p) {
        const int64_t rank = rank_of(layer_, step_.group_slot[g], p);
        for (int64_t r = 0; r < rank; r += block)
          if (number++ % parts == part) shrink_group(tile, g, p, r, std::min(r + block, rank), hidden);
      }
  }

  // This thread's share of y: adjacent blocks of columns, so that what is prefetched is its own.
  void expand(int64_t tile, const float* hidden, int64_t part, int64_t parts) const {
    int64_t number = 0, offset = 0, blocks = 0;
    for (int64_t p = 0; p < layer_.slices; ++p) blocks += (layer_.outputs[p] + kColumns - 1) / kColumns;
    const int64_t first = blocks * part / parts, last = blocks * (part + 1) / parts;
    for (int64_t p = 0; p < layer_.slices; ++p) {
      for (int64_t column = 0; column < layer_.outputs[p]; column += kColumns, ++number)
        if (number >= first && number < last) expand_block(tile, p, offset, column, hidden);
      offset += layer_.outputs[p];
    }
  }

 private:
  int64_t first_entry(int64_t tile) const { return step_.group_entry[step_.tile_group[tile]]; }
  int64_t last_entry(int64_t tile) const { return step_.group_entry[step_.tile_group[tile + 1]]; }

  void shrink_group(int64_t tile, int32_t g, int64_t p, int64_t first, int64_t last, float* hidden) const {
    const T* a = weights_of<T>(layer_, step_.group_slot[g], p, 0);
    float* base = hidden + (p * entries(tile) - first_entry(tile)) * layer_.max_rank;
    const int32_t end = step_.group_entry[g + 1];
    const T* x[kTokens];
    float* to[kTokens];
    for (int32_t e = step_.group_entry[g]; e < end; e += kTokens) {
      const int n = std::min<int32_t>(kTokens, end - e);
      for (int i = 0; i < n; ++i) {
        x[i] = x_ + step_.entry_token[e + i] * x_stride_;
        to[i] = base + (e + i) * layer_.max_rank;
      }
      const float* weight = step_.entry_weight + e;
      if (n == 4) rows<4>(a, layer_.inputs, first, last, x, weight, to);
      else if (n == 3) rows<3>(a, layer_.inputs, first, last, x, weight, to);
      else if (n == 2) rows<2>(a, layer_.inputs, first, last, x, weight, to);
      else rows<1>(a, layer_.inputs, first, last, x, weight, to);
    }
  }

  void expand_block(int64_t tile, int64_t p, int64_t offset, int64_t column, const float* hidden) const {
    alignas(64) float sums[kTile][kColumns];
    const int64_t width = std::min<int64_t>(kColumns, layer_.outputs[p] - column);
    const int32_t first = tile_token(tile);
    const float* base = hidden + (p * entries(tile) - first_entry(tile)) * layer_.max_rank;
    uint32_t touched = 0;  // a token without a weight here keeps its very bits
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g) {
      const int32_t slot = step_.group_slot[g];
      const int64_t rank = rank_of(layer_, slot, p);
      if (rank == 0) continue;
      const T* b = weights_of<T>(layer_, slot, p, 1) + column * rank;
      const char* next = reinterpret_cast<const char*>(b + rank * kColumns);
      if (column + kColumns < layer_.outputs[p])
        for (int64_t i = 0; i < rank * kColumns * int64_t(sizeof(T)); i += 64) __builtin_prefetch(next + i);
      const int32_t end = step_.group_entry[g + 1];
      const float* from[kTokens];
      float* to[kTokens];
      for (int32_t e = step_.group_entry[g]; e < end; e += kTokens) {
        const int n = std::min<int32_t>(kTokens, end - e);
        for (int i = 0; i < n; ++i) {
          const int32_t token = step_.entry_token[e + i], row = token - first;
          from[i] = base + (e + i) * layer_.max_rank;
          to[i] = sums[row];
          if (!(touched >> row & 1)) {
            const T* y = y_ + token * y_stride_ + offset + column;
            for (int64_t c = 0; c < width; ++c) sums[row][c] = read(y + c);
            touched |= 1u << row;
          }
        }
        if (n == 4) outer<4>(b, rank, width, from, to);
        else if (n == 3) outer<3>(b, rank, width, from, to);
        else if (n == 2) outer<2>(b, rank, width, from, to);
        else outer<1>(b, rank, width, from, to);
      }
    }
    for (int row = 0; row < kTile; ++row)
      if (touched >> row & 1) {
        T* y = y_ + (first + row) * y_stride_ + offset + column;
        for (int64_t c = 0; c < width; ++c) write(y + c, sums[row][c]);
      }
  }

  // Tiles lie on multiples of kTile, so any of their tokens says where they begin.
  int32_t tile_token(int64_t tile) const { return step_.entry_token[first_entry(tile)] / kTile * kTile; }

  const Layer& layer_;
  const Step& step_;
  const T* x_;
  int64_t x_stride_;
  T* y_;
  int64_t y_stride_;
};

template <typename T>
int add_mixture(const Layer& layer, const Step& step, T* y, int64_t y_stride, const T* x, int64_t x_stride,
                int64_t count) {
  if (step.rows > count) return 1;
  int64_t most = 0;
  double work = 0;
  const Work<T> job(layer, step, x, x_stride, y, y_stride);
  for (int64_t tile = 0; tile < step.tiles; ++tile) {
    most = std::max(most, job.entries(tile));
    for (int32_t g = step.tile_group[tile]; g < step.tile_group[tile + 1]; ++g)
      for (int64_t p = 0; p < layer.slices; ++p) {
        const int64_t rank = rank_of(layer, step.group_slot[g], p);
        if (rank < 0 || rank > layer.max_rank) return 2;
        work += double(step.group_entry[g + 1] - step.group_entry[g]) * rank * (layer.inputs + layer.outputs[p]);
      }
  }
  if (work == 0) return 0;
  const int threads = work < kSerialWork ? 1 : omp_get_max_threads();
  const int64_t size = layer.slices * most * layer.max_rank;
  static thread_local std::vector<float> scratch;
  if (int64_t(scratch.size()) < size * threads) scratch.resize(size * threads);
  float* hidden = scratch.data();
  if (threads == 1) {
    for (int64_t tile = 0; tile < step.tiles; ++tile) {
      job.shrink(tile, hidden, 0, 1);
      job.expand(tile, hidden, 0, 1);
    }
  } else if (step.tiles >= threads) {  // a tile for each: no thread waits for another
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t tile = 0; tile < step.tiles; ++tile) {
      float* own = hidden + size * omp_get_thread_num();
      job.shrink(tile, own, 0, 1);
      job.expand(tile, own, 0, 1);
    }
  } else {  // few tokens: the weights are the work, so they are divided
#pragma omp parallel num_threads(threads)
    for (int64_t tile = 0; tile < step.tiles; ++tile) {
      const int part = omp_get_thread_num(), parts = omp_get_num_threads();
      job.shrink(tile, hidden, part, parts);
#pragma omp barrier
      job.expand(tile, hidden, part, parts);
#pragma omp barrier
    }
  }
  return 0;
}

}  // namespace

extern "C" {

// 0, or why nothing was done. 1: fewer rows than the plan has tokens. 2: a rank that cannot be.
int mega_add_mixture_float32(const RawLayer* layer, const RawStep* step, void* y, int64_t y_stride, const void* x,
                             int64_t x_stride, int64_t count) {
  return add_mixture(Layer(*layer), Step(*step), static_cast<float*>(y), y_stride, static_cast<const float*>(x), x_stride, count);
}

int mega_add_mixture_bfloat16(const RawLayer* layer, const RawStep* step, void* y, int64_t y_stride, const void* x,
                              int64_t x_stride, int64_t count) {
  return add_mixture(Layer(*layer), Step(*step), static_cast<BFloat16*>(y), y_stride, static_cast<const BFloat16*>(x), x_stride,
                     count);
}
}
