// The bfloat16 instructions that this library uses: the compiler's, or plain C++ so that tests run
// all code on any processor. The two round sums differently.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(KERNELS_EMULATED)
#include <immintrin.h>
#else

using __m512 = float __attribute__((vector_size(64)));
using __m512bh = uint32_t __attribute__((vector_size(64)));  // pairs, the first in the low half
using __m256bh = uint16_t __attribute__((vector_size(32)));

inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  constexpr uint32_t kHigh = 0xffff0000;
  sum += reinterpret_cast<__m512>(a & kHigh) * reinterpret_cast<__m512>(b & kHigh);
  sum += reinterpret_cast<__m512>(a << 16) * reinterpret_cast<__m512>(b << 16);
  return sum;
}

inline __m256bh _mm512_cvtneps_pbh(__m512 values) {  // rounds to nearest, ties to even
  using Bits = uint32_t __attribute__((vector_size(64)));
  const Bits bits = reinterpret_cast<Bits>(values);
  const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Bits is_nan = reinterpret_cast<Bits>(values != values);
  return __builtin_convertvector(((is_nan & (bits | 0x400000)) | (~is_nan & rounded)) >> 16,
                                 __m256bh);
}

// AMX: eight tiles of 16 rows of 64 bytes.
struct Tile {
  uint32_t words[16][16];
};
inline thread_local Tile tiles[8];

inline void _tile_loadconfig(const void*) {}
inline void _tile_release() {}
inline void _tile_zero(int tile) { tiles[tile] = {}; }
inline void _tile_loadd(int tile, const void* from, int64_t stride) {
  for (int r = 0; r < 16; r++) {
    std::memcpy(tiles[tile].words[r], static_cast<const char*>(from) + r * stride, 64);
  }
}
inline void _tile_stored(int tile, void* to, int64_t stride) {
  for (int r = 0; r < 16; r++) {
    std::memcpy(static_cast<char*>(to) + r * stride, tiles[tile].words[r], 64);
  }
}
inline void _tile_dpbf16ps(int sum, int a, int b) {
  for (int r = 0; r < 16; r++) {
    __m512 row;
    std::memcpy(&row, tiles[sum].words[r], 64);
    for (int k = 0; k < 16; k++) {
      __m512bh right;
      std::memcpy(&right, tiles[b].words[k], 64);
      row = _mm512_dpbf16_ps(row, __m512bh{} + tiles[a].words[r][k], right);
    }
    std::memcpy(tiles[sum].words[r], &row, 64);
  }
}

#endif
