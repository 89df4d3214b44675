// Vector registers of any processor: float32, and bfloat16 that is widened when read and rounded when written.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Floats __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(kBytes), aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

// The bits of the nearest bfloat16, ties to even, in the upper half; NaN keeps a bit that says so.
inline Words upper(Floats value) {
  const Words word = (Words)value, nan = (Words)(value != value);
  return (nan & (word | 0x400000)) | (~nan & (word + 0x7fff + ((word >> 16) & 1)));
}

inline Floats read(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline Floats read(const BFloat16* p) {
  return (Floats)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}
inline void write(float* p, Floats value) { *reinterpret_cast<Floats*>(p) = value; }
inline void write(BFloat16* p, Floats value) {
  *reinterpret_cast<Halves*>(p) = __builtin_convertvector(upper(value) >> 16, Halves);
}
// The same for a last few numbers; the other lanes are 0.
template <typename T>
inline Floats read(const T* p, int64_t count) {
  T some[kLanes] = {};
  std::memcpy(some, p, count * sizeof(T));
  return read(some);
}
template <typename T>
inline void write(T* p, Floats value, int64_t count) {
  T some[kLanes];
  write(some, value);
  std::memcpy(p, some, count * sizeof(T));
}

}  // namespace
