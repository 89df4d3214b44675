// The tile registers of AMX: eight, each of up to 16 rows of 64 bytes. MEGA_AMX: the compiler has them.

#pragma once

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#define MEGA_AMX

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mixture.h"

namespace {

constexpr int kSide = 16;   // rows of a register, and its float32 columns
constexpr int kDepth = 32;  // bfloat16 numbers in a row of a register

inline int amx_allowed() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

// Has the compiler write what registers will be loaded from: it does not know that they are.
inline void written(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }

inline void prefetch(const BFloat16* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 32) __builtin_prefetch(from + i);
}

// The shape of all eight registers.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Whoever else computes with the registers in this thread finds them configured as they were.
struct Registers {
  Registers() { _tile_storeconfig(&found); }
  ~Registers() {
    if (found.palette) _tile_loadconfig(&found);
    else _tile_release();
  }
  Registers(const Registers&) = delete;
  Shapes found;
};

// Registers 0 to 3 are sums. Tokens in two rows of 16 need twice as many registers, so they have fewer columns.
struct Tokens {
  int64_t first;
  int count[2];  // in either row

  bool two() const { return count[1] > 0; }
  int columns() const { return two() ? 2 : 4; }  // registers of sums side by side
  int row(int sum) const { return two() ? sum % 2 : 0; }

  // `depth`: pairs of numbers that a product adds up.
  void configure(int depth) const {
    Shapes shapes;
    for (int i = 0; i < 8; ++i) {
      const bool sum = i < 4, left = i == 4 || (two() && i == 5);
      shapes.rows[i] = sum ? count[row(i)] : left ? count[i - 4] : depth;
      shapes.bytes[i] = left ? depth * 4 : 64;
    }
    written(&shapes);
    _tile_loadconfig(&shapes);
  }
};

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// sums[row][column] += left[row] @ right[column]. `left`: rows of tokens, `left_stride` bytes apart. `right`: up
// to two (four) columns, `strides` bytes from row to row.
template <bool kTwo>
inline void multiply(const BFloat16* left, int64_t left_stride, const BFloat16* const* right, const int64_t* strides,
                     int columns) {
  _tile_loadd(4, left, left_stride);
  if (kTwo) {
    _tile_loadd(5, reinterpret_cast<const char*>(left) + kSide * left_stride, left_stride);
    _tile_loadd(6, right[0], strides[0]);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if (columns < 2) return;
    _tile_loadd(7, right[1], strides[1]);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    return;
  }
  _tile_loadd(5, right[0], strides[0]);
  _tile_dpbf16ps(0, 4, 5);
  if (columns < 2) return;
  _tile_loadd(6, right[1], strides[1]);
  _tile_dpbf16ps(1, 4, 6);
  if (columns < 3) return;
  _tile_loadd(7, right[2], strides[2]);
  _tile_dpbf16ps(2, 4, 7);
  if (columns < 4) return;
  _tile_loadd(5, right[3], strides[3]);
  _tile_dpbf16ps(3, 4, 5);
}

// Writes the sums to [register][kSide][kSide].
inline void store_sums(float* to) {
  _tile_stored(0, to, 64);
  _tile_stored(1, to + 256, 64);
  _tile_stored(2, to + 512, 64);
  _tile_stored(3, to + 768, 64);
}

inline __m512 widen(__m256i halves) {
  return (__m512)(_mm512_cvtepu16_epi32(halves) << 16);
}
inline __mmask16 first_lanes(int64_t count) { return count >= kSide ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

}  // namespace

#else

namespace {
inline int amx_allowed() { return 0; }
}  // namespace

#endif
