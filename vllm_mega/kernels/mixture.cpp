// The CPU kernel: y[t] += sum_k w[t,k] * B[s] @ (A[s] @ x[t]), for one layer and all tokens of a step.
//
// kernels/native.py compiles this file for the machine it runs on and calls `mega_add_mixture_*`;
// kernels/cpu.py has the layout of every argument. Sums are float32 and in one order per token
// (slots ascending, ranks ascending), whatever else is in the batch. What is rounded to the type of the
// weights: A @ x with its weight, once, and `y`, once.

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
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
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kRows = 2;  // rows of A that share one load of an input: sums must fit 16 registers
#else
constexpr int kRows = 4;  // ... 32 registers
#endif
constexpr double kSerialWork = 1 << 16;  // multiply-adds below which waking the threads costs more

typedef float Floats __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(kBytes), aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

inline Floats read(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline Floats read(const BFloat16* p) {
  return (Floats)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}
inline void write(float* p, Floats value) { *reinterpret_cast<Floats*>(p) = value; }
inline void write(BFloat16* p, Floats value) {
  const Words word = (Words)value, nan = (Words)(value != value);
  const Words rounded = word + 0x7fff + ((word >> 16) & 1);  // to nearest, ties to even
  *reinterpret_cast<Halves*>(p) =  // NaN keeps a bit that says so
      __builtin_convertvector(((nan & (word | 0x400000)) | (~nan & rounded)) >> 16, Halves);
}
// The same for a last few numbers.
template <typename T>
inline Floats read(const T* p, int64_t count) {
  T all[kLanes] = {};
  std::memcpy(all, p, count * sizeof(T));
  return read(all);
}
template <typename T>
inline void write(T* p, Floats value, int64_t count) {
  T all[kLanes];
  write(all, value);
  std::memcpy(p, all, count * sizeof(T));
}

// Weights and inputs are handled as 32-bit words: one float32, or a pair of bfloat16.
template <typename T>
constexpr int kPair = 4 / sizeof(T);

inline Words load(const void* p) { return *static_cast<const Words*>(p); }
inline Words load_first(const void* p, int64_t bytes) {  // the rest: zeros
  Words words = {};
  std::memcpy(&words, p, bytes);
  return words;
}
inline Words spread(const void* p) {  // one word to all lanes
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word - Words{};
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

// sum + a * b, lane by lane; of pairs both products.
template <typename T>
inline Floats multiply(Words a, Words b, Floats sum) {
  if (kPair<T> == 1) return fma((Floats)a, (Floats)b, sum);
#if defined(__AVX512BF16__)
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum = fma((Floats)(a << 16), (Floats)(b << 16), sum);
  return fma((Floats)(a & 0xffff0000), (Floats)(b & 0xffff0000), sum);
#endif
}

#if defined(__clang__)
#define MEGA_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MEGA_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Words{__VA_ARGS__})
#endif

// Adds lanes that lie H apart: of `a` where bit H of the lane's number is 0, else of `b`.
template <int H, int... L>
inline Floats add_lanes(Floats a, Floats b, std::integer_sequence<int, L...>) {
  return MEGA_SHUFFLE(a, b, (L & H ? L + kLanes : L)...) +
         MEGA_SHUFFLE(a, b, (L & H ? (L ^ H) + kLanes : L ^ H)...);
}

// Lane l of v[0] becomes the sum over all lanes of v[l]: always the same tree.
template <int H = kLanes / 2>
inline void sum_lanes(Floats* v) {
  for (int i = 0; i < H; ++i) v[i] = add_lanes<H>(v[i], v[i + H], std::make_integer_sequence<int, kLanes>());
  if constexpr (H > 1) sum_lanes<H / 2>(v);
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
inline void rows(const T* a, int64_t inputs, int64_t first, int64_t last, const T* const* x, const float* weight,
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
class Work {
 public:
  Work(const Layer& layer, const Step& step, const T* x, int64_t x_stride, T* y, int64_t y_stride)
      : layer_(layer), step_(step), x_(x), x_stride_(x_stride), y_(y), y_stride_(y_stride),
        hidden_stride_(pairs(layer.max_rank) * kPair<T>) {}

  // Entry e of a tile has its hidden values of slice p at hidden[(p * entries + e) * hidden_stride].
  int64_t entries(int64_t tile) const { return last_entry(tile) - first_entry(tile); }
  int64_t hidden_size(int64_t entries) const { return layer_.slices * entries * hidden_stride_; }

  // This thread's share of A: every `parts`-th block of rows.
  void shrink(int64_t tile, T* hidden, int64_t part, int64_t parts) const {
    int64_t number = 0;
    Rows rows{};
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g)
      for (int64_t p = 0; p < layer_.slices; ++p) {
        const int64_t rank = rank_of(layer_, step_.group_slot[g], p);
        const int64_t block = (rank + 4 * parts - 1) / (4 * parts) * 4;
        for (int64_t r = 0; r < rank; r += block)
          if (number++ % parts == part) {
            const Rows next{weights_of<T>(layer_, step_.group_slot[g], p, 0), g, p, r, std::min(r + block, rank)};
            if (rows.a) shrink_group(tile, rows, next.a + r * layer_.inputs, hidden);
            rows = next;
          }
      }
    if (rows.a) shrink_group(tile, rows, nullptr, hidden);
  }

  // This thread's share of y: adjacent blocks of columns, so that what is prefetched is its own.
  void expand(int64_t tile, const T* hidden, int64_t part, int64_t parts) const {
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
  struct Rows {  // of lora_A, for the tokens of a group
    const T* a;
    int32_t group;
    int64_t slice, first, last;
  };

  static int64_t pairs(int64_t rank) { return (rank + kPair<T> - 1) / kPair<T>; }
  int64_t first_entry(int64_t tile) const { return step_.group_entry[step_.tile_group[tile]]; }
  int64_t last_entry(int64_t tile) const { return step_.group_entry[step_.tile_group[tile + 1]]; }

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

  void shrink_group(int64_t tile, const Rows& of, const T* next, T* hidden) const {
    T* base = hidden + (of.slice * entries(tile) - first_entry(tile)) * hidden_stride_;
    few(of.group, [&](auto count, int32_t e) {
      constexpr int N = decltype(count)::value;
      const T* x[N];
      T* to[N];
      for (int i = 0; i < N; ++i) {
        x[i] = x_ + step_.entry_token[e + i] * x_stride_;
        to[i] = base + (e + i) * hidden_stride_;
        if (of.last % kPair<T>) to[i][of.last] = T{};  // a last pair is whole
      }
      rows<N>(of.a, layer_.inputs, of.first, of.last, x, step_.entry_weight + e, to, next, share(of.group, e));
    });
  }

  void expand_block(int64_t tile, int64_t p, int64_t offset, int64_t column, const T* hidden) const {
    alignas(64) float sums[kTile][kColumns];
    const int64_t width = std::min<int64_t>(kColumns, layer_.outputs[p] - column);
    const int32_t first = tile_token(tile);
    const T* base = hidden + (p * entries(tile) - first_entry(tile)) * hidden_stride_;
    uint32_t touched = 0;  // a token without a weight here keeps its very bits
    for (int32_t g = step_.tile_group[tile]; g < step_.tile_group[tile + 1]; ++g) {
      const int32_t slot = step_.group_slot[g];
      const int64_t rank = pairs(rank_of(layer_, slot, p)), size = rank * kPair<T> * kColumns;
      if (rank == 0) continue;
      const T* b = weights_of<T>(layer_, slot, p, 1) + column / kColumns * size;
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
            const T* y = y_ + token * y_stride_ + offset + column;
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
        T* y = y_ + (first + row) * y_stride_ + offset + column;
        for (int64_t c = 0; c < width; c += kLanes)
          if (width - c < kLanes) write(y + c, read(sums[row] + c), width - c);
          else write(y + c, read(sums[row] + c));
      }
  }

  // Tiles lie on multiples of kTile, so any of their tokens says where they begin.
  int32_t tile_token(int64_t tile) const { return step_.entry_token[first_entry(tile)] / kTile * kTile; }

  const Layer& layer_;
  const Step& step_;
  const T* x_;
  int64_t x_stride_;
  T* y_;
  int64_t y_stride_, hidden_stride_;
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
  const int64_t size = job.hidden_size(most);
  static thread_local std::vector<T> scratch;
  if (int64_t(scratch.size()) < size * threads) scratch.resize(size * threads);
  T* hidden = scratch.data();
  if (threads == 1) {
    for (int64_t tile = 0; tile < step.tiles; ++tile) {
      job.shrink(tile, hidden, 0, 1);
      job.expand(tile, hidden, 0, 1);
    }
  } else if (step.tiles >= threads) {  // a tile for each: no thread waits for another
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t tile = 0; tile < step.tiles; ++tile) {
      T* own = hidden + size * omp_get_thread_num();
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
  return add_mixture(Layer(*layer), Step(*step), static_cast<float*>(y), y_stride, static_cast<const float*>(x),
                     x_stride, count);
}

int mega_add_mixture_bfloat16(const RawLayer* layer, const RawStep* step, void* y, int64_t y_stride, const void* x,
                              int64_t x_stride, int64_t count) {
  return add_mixture(Layer(*layer), Step(*step), static_cast<BFloat16*>(y), y_stride,
                     static_cast<const BFloat16*>(x), x_stride, count);
}
}
