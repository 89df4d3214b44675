// What a training step does to every element besides its matrix products, in one pass over memory each.
//
// training/fused_kernels.py has the shapes of every argument and calls `mega_<name>_<type>`. Sums are float32
// and in one order, whatever the number of threads. Where PyTorch's own code rounds an intermediate result
// to the model's type in the forward pass (norm, SiLU), so does this.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "../../kernels/simd.h"

namespace {

constexpr int64_t kSerial = 1 << 14;  // elements below which waking the threads costs more

inline Floats all(float value) { return value - Floats{}; }
inline Floats select(Words where, Floats a, Floats b) { return (Floats)((where & (Words)a) | (~where & (Words)b)); }

// A count that says: as many numbers as a vector has lanes.
using Full = std::integral_constant<int64_t, kLanes>;
template <typename T>
inline Floats read(const T* p, Full) {
  return read(p);
}
template <typename T>
inline void write(T* p, Floats value, Full) {
  write(p, value);
}
// f(i, count) for every vector of a row of n.
template <typename F>
inline void each(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full());
  if (i < n) f(i, n - i);
}

template <typename T>
inline Floats rounded(Floats value) {
  return std::is_same<T, float>::value ? value : (Floats)(upper(value) & 0xffff0000);
}

inline float sum(Floats v) {
  float lane[kLanes];
  write(lane, v);
  for (int64_t h = kLanes / 2; h > 0; h /= 2)
    for (int64_t l = 0; l < h; ++l) lane[l] += lane[l + h];
  return lane[0];
}

// e^x within two units in the last place; 0 below the smallest normal number, finite above the largest.
inline Floats exponential(Floats x) {
  const Floats low = all(-87.3f), high = all(88.0f);
  const Words tiny = (Words)(x < low);
  x = select(tiny, low, select((Words)(x > high), high, x));
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats shifted = x * 1.44269504088896341f + magic, n = shifted - magic;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;  // x - n ln 2
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return select(tiny, Floats{}, p * (Floats)(((Words)shifted + 127) << 23));  // times 2^n
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

template <typename T>
void rms_norm(const T* x, const float* weight, T* y, float* rstd, int64_t rows, int64_t size, double eps) {
#pragma omp parallel for if (rows * size > kSerial)
  for (int64_t n = 0; n < rows; ++n) {
    const T* in = x + n * size;
    T* out = y + n * size;
    Floats squares{};
    each(size, [&](int64_t i, auto count) {
      const Floats v = read(in + i, count);
      squares += v * v;
    });
    const float scale = rstd[n] = 1.0f / std::sqrt(sum(squares) / size + float(eps));
    each(size, [&](int64_t i, auto count) {
      write(out + i, rounded<T>(read(in + i, count) * scale) * read(weight + i, count), count);
    });
  }
}

template <typename T>
void rms_norm_grad(const T* dy, const T* x, const float* weight, const float* rstd, T* dx, int64_t rows,
                   int64_t size) {
#pragma omp parallel for if (rows * size > kSerial)
  for (int64_t n = 0; n < rows; ++n) {
    const T *grad = dy + n * size, *in = x + n * size;
    T* out = dx + n * size;
    Floats dot{};
    each(size, [&](int64_t i, auto count) {
      dot += read(grad + i, count) * read(weight + i, count) * read(in + i, count);
    });
    const float scale = rstd[n], along = sum(dot) * scale * scale / size;
    each(size, [&](int64_t i, auto count) {
      const Floats g = read(grad + i, count) * read(weight + i, count);
      write(out + i, (g - read(in + i, count) * along) * scale, count);
    });
  }
}

constexpr int64_t kBlock = 4096;  // elements that a thread takes at once

template <typename F>
void blocks(int64_t size, const F& f) {
#pragma omp parallel for if (size > kSerial)
  for (int64_t block = 0; block < size; block += kBlock)
    each(std::min(kBlock, size - block), [&](int64_t i, auto count) { f(block + i, count); });
}

template <typename T>
void swiglu(const T* gate, const T* up, T* y, int64_t size) {
  blocks(size, [=](int64_t i, auto count) {
    const Floats g = read(gate + i, count);
    write(y + i, rounded<T>(g * sigmoid(g)) * read(up + i, count), count);
  });
}

template <typename T>
void swiglu_grad(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t size) {
  blocks(size, [=](int64_t i, auto count) {
    const Floats d = read(dy + i, count), g = read(gate + i, count), s = sigmoid(g);
    write(dgate + i, d * read(up + i, count) * s * (1.0f + g * (1.0f - s)), count);
    write(dup + i, d * (g * s), count);
  });
}

template <typename T>
void rotary(const T* x, int64_t token_stride, int64_t head_stride, const T* cos, const T* sin, T* y, int64_t tokens,
            int64_t heads, int64_t size, int64_t inverse) {
  const int64_t half = size / 2;
#pragma omp parallel for if (tokens * heads * size > kSerial)
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      const T *in = x + t * token_stride + h * head_stride, *c = cos + t * size, *s = sin + t * size;
      T* out = y + (t * heads + h) * size;
      each(half, [&](int64_t i, auto count) {
        const Floats a = read(in + i, count), b = read(in + half + i, count);
        const Floats first = read(s + i, count), second = read(s + half + i, count);
        const Floats across = inverse ? -second : first, down = inverse ? -first : second;
        write(out + i, a * read(c + i, count) - b * across, count);
        write(out + half + i, b * read(c + half + i, count) + a * down, count);
      });
    }
}

template <typename T>
void softmax(T* scores, const float* mask, int64_t rows, int64_t segments, int64_t width, int64_t queries,
             int64_t keys, double scaling) {
  const float scale = float(scaling), none = -std::numeric_limits<float>::infinity();
  const int64_t padded = (keys + kLanes - 1) / kLanes * kLanes;
#pragma omp parallel if (rows * keys > kSerial)
  {
    std::vector<float> row(padded, none);  // what lies behind the last key stays so
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      T* score = scores + r * keys;
      const float* seen = mask + (r / width % segments * queries + r % queries) * keys;
      Floats most = all(none), total{};
      std::fill(row.end() - std::min<int64_t>(padded, kLanes), row.end(), none);
      each(keys, [&](int64_t i, auto count) {
        write(row.data() + i, read(score + i, count) * scale + read(seen + i, count), count);
        const Floats v = read(row.data() + i, Full());
        most = select((Words)(v > most), v, most);
      });
      float top = none;
      for (int64_t l = 0; l < kLanes; ++l) top = std::max(top, most[l]);
      for (int64_t i = 0; i < padded; i += kLanes) {
        const Floats v = exponential(read(row.data() + i, Full()) - top);
        write(row.data() + i, v, Full());
        total += v;
      }
      const float share = 1.0f / sum(total);
      each(keys, [&](int64_t i, auto count) { write(score + i, read(row.data() + i, count) * share, count); });
    }
  }
}

template <typename T>
void softmax_grad(T* dp, const T* p, int64_t rows, int64_t keys, double scaling) {
  const float scale = float(scaling);
#pragma omp parallel for if (rows * keys > kSerial)
  for (int64_t r = 0; r < rows; ++r) {
    T* grad = dp + r * keys;
    const T* of = p + r * keys;
    Floats dot{};
    each(keys, [&](int64_t i, auto count) { dot += read(grad + i, count) * read(of + i, count); });
    const float mean = sum(dot);
    each(keys, [&](int64_t i, auto count) {
      write(grad + i, (read(grad + i, count) - mean) * read(of + i, count) * scale, count);
    });
  }
}

// Calls f(position in the row, head, place in a block [G, E, X, W]) for all that is no padding.
template <typename F>
void places(const int64_t* index, int64_t groups, int64_t segments, int64_t each_group, int64_t width, const F& f) {
#pragma omp parallel for collapse(3) if (groups * segments * each_group * width > kSerial / 64)
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t e = 0; e < segments; ++e)
      for (int64_t x = 0; x < each_group; ++x)
        for (int64_t w = 0; w < width; ++w)
          f(index[e * width + w], g * each_group + x, ((g * segments + e) * each_group + x) * width + w);
}

template <typename T>
void gather(const T* row, int64_t token_stride, int64_t head_stride, const int64_t* index, T* block, int64_t groups,
            int64_t segments, int64_t each_group, int64_t width, int64_t size) {
  places(index, groups, segments, each_group, width, [=](int64_t token, int64_t head, int64_t place) {
    if (token < 0) std::memset(static_cast<void*>(block + place * size), 0, size * sizeof(T));
    else std::memcpy(block + place * size, row + token * token_stride + head * head_stride, size * sizeof(T));
  });
}

template <typename T>
void scatter(const T* block, const int64_t* index, T* row, int64_t groups, int64_t segments, int64_t each_group,
             int64_t width, int64_t size) {
  places(index, groups, segments, each_group, width, [=](int64_t token, int64_t head, int64_t place) {
    if (token >= 0)
      std::memcpy(row + (token * groups * each_group + head) * size, block + place * size, size * sizeof(T));
  });
}

// Many places may add to one token: a thread has tokens of its own, and adds in the order of the places.
template <typename T>
void scatter_add(const T* block, const int64_t* index, float* row, int64_t tokens, int64_t groups, int64_t places,
                 int64_t size) {
#pragma omp parallel if (groups * places * size > kSerial)
  {
    const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
    const int64_t first = tokens * part / parts, last = tokens * (part + 1) / parts;
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t place = 0; place < places; ++place) {
        const int64_t token = index[place];
        if (token < first || token >= last) continue;
        float* to = row + (token * groups + g) * size;
        const T* from = block + (g * places + place) * size;
        each(size, [&](int64_t i, auto count) { write(to + i, read(to + i, count) + read(from + i, count), count); });
      }
  }
}

}  // namespace

#define MEGA_EXPORT(T, name)                                                                                      \
  void mega_rms_norm_##name(const T* x, const float* w, T* y, float* rstd, int64_t rows, int64_t size,            \
                            double eps) {                                                                         \
    rms_norm(x, w, y, rstd, rows, size, eps);                                                                     \
  }                                                                                                               \
  void mega_rms_norm_grad_##name(const T* dy, const T* x, const float* w, const float* rstd, T* dx, int64_t rows, \
                                 int64_t size) {                                                                  \
    rms_norm_grad(dy, x, w, rstd, dx, rows, size);                                                                \
  }                                                                                                               \
  void mega_swiglu_##name(const T* g, const T* u, T* y, int64_t size) { swiglu(g, u, y, size); }                  \
  void mega_swiglu_grad_##name(const T* dy, const T* g, const T* u, T* dg, T* du, int64_t size) {                 \
    swiglu_grad(dy, g, u, dg, du, size);                                                                          \
  }                                                                                                               \
  void mega_rotary_##name(const T* x, int64_t ts, int64_t hs, const T* cos, const T* sin, T* y, int64_t tokens,   \
                          int64_t heads, int64_t size, int64_t inverse) {                                         \
    rotary(x, ts, hs, cos, sin, y, tokens, heads, size, inverse);                                                 \
  }                                                                                                               \
  void mega_softmax_##name(T* scores, const float* mask, int64_t rows, int64_t segments, int64_t width,           \
                           int64_t queries, int64_t keys, double scaling) {                                       \
    softmax(scores, mask, rows, segments, width, queries, keys, scaling);                                         \
  }                                                                                                               \
  void mega_softmax_grad_##name(T* dp, const T* p, int64_t rows, int64_t keys, double scaling) {                  \
    softmax_grad(dp, p, rows, keys, scaling);                                                                     \
  }                                                                                                               \
  void mega_gather_##name(const T* row, int64_t ts, int64_t hs, const int64_t* index, T* block, int64_t g,        \
                          int64_t e, int64_t x, int64_t w, int64_t size) {                                        \
    gather(row, ts, hs, index, block, g, e, x, w, size);                                                          \
  }                                                                                                               \
  void mega_scatter_##name(const T* block, const int64_t* index, T* row, int64_t g, int64_t e, int64_t x,         \
                           int64_t w, int64_t size) {                                                             \
    scatter(block, index, row, g, e, x, w, size);                                                                 \
  }                                                                                                               \
  void mega_scatter_add_##name(const T* block, const int64_t* index, float* row, int64_t tokens, int64_t groups,  \
                               int64_t places, int64_t size) {                                                    \
    scatter_add(block, index, row, tokens, groups, places, size);                                                 \
  }

extern "C" {
MEGA_EXPORT(float, float32)
MEGA_EXPORT(BFloat16, bfloat16)
}
