// Products of vector registers, as float32 and as 32-bit words: one float32, or a pair of bfloat16.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <utility>

#include "mixture.h"

namespace {

constexpr int kTokens = 4;    // tokens that share one load of a weight
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kRows = 2;  // rows of A that share one load of an input: sums must fit 16 registers
#else
constexpr int kRows = 4;  // ... 32 registers
#endif

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
