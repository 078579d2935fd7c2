// Convolutions of bfloat16 with AMX (Intel from Sapphire Rapids): 16×16 tiles of sums.
#include <chrono>
#include <cstring>

#include "convolution.h"
#include "emulation.h"

TARGET_BEGIN(TARGET_AMX)

namespace kernels {
namespace {

struct Isa {
  using Element = uint16_t;
  using Vector = __m512;
  static constexpr int kElements = 2, kLanes = 16, kRows = 32, kVectors = 2, kNarrowRows = 32;
  static constexpr int kGroup = 32, kStepUnit = 16;

  // All eight tiles have 16 rows of 64 bytes. A thread releases them, because the operating
  // system saves the tiles of every thread that has them.
  struct Session {
    Session() {
      struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } config;
      static_assert(sizeof(config) == 64, "what the processor reads");
      _tile_loadconfig(&config);
    }
    ~Session() { _tile_release(); }
  };

  static void store(Element* to, Vector sum, int64_t count) {
    const __m256bh rounded = _mm512_cvtneps_pbh(sum);
    if (count >= kLanes) {
      std::memcpy(to, &rounded, sizeof(rounded));
    } else {
      std::memcpy(to, &rounded, count * sizeof(Element));
    }
  }
};

// Tiles 0 and 1 are the sums of the first 16 rows, 2 and 3 of the others; 4 and 5 are left blocks,
// 6 and 7 right blocks.
template <int kRows, int kVectors>
KERNEL_INLINE void multiply(Isa::Vector (&sums)[kRows][kVectors], const Product* products,
                            int64_t count, int64_t steps, int64_t offset) {
  constexpr int64_t kWidth = kVectors * Isa::kLanes, kHalf = 16 * kBlockSteps;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t p = 0; p < count; p++) {
    const Word* a = products[p].a + offset;
    const Word* b = products[p].b;
    for (int64_t step = 0; step < steps; step += kBlockSteps) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, kWidth * 4);
      _tile_loadd(5, a + kHalf, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kVectors == 2) {
        _tile_loadd(7, b + Isa::kLanes, kWidth * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      a += Isa::kGroup * kBlockSteps;
      b += kBlockSteps * kWidth;
    }
  }
  _tile_stored(0, &sums[0][0], kWidth * 4);
  _tile_stored(2, &sums[16][0], kWidth * 4);
  if constexpr (kVectors == 2) {
    _tile_stored(1, &sums[0][1], kWidth * 4);
    _tile_stored(3, &sums[16][1], kWidth * 4);
  }
}

#include "convolution_scheme.inc"
#include "convolution_weights.inc"

}  // namespace

extern const Operations kAmxOperations = {
    "amx", true, kEmulated ? InstructionSet::kNone : InstructionSet::kAmx,
    forward, input_gradient, weight_gradient, peak};

}  // namespace kernels

TARGET_END
