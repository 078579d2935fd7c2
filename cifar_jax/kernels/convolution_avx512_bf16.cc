// Convolutions of bfloat16 with AVX512-BF16 (AMD from Zen 4, Intel from Cooper Lake).
#include <chrono>
#include <cstring>

#include "convolution.h"
#include "emulation.h"

TARGET_BEGIN(TARGET_AVX512_BF16)

namespace kernels {
namespace {

struct Isa {
  using Element = uint16_t;
  using Vector = __m512;
  static constexpr int kElements = 2, kLanes = 16, kRows = 8, kVectors = 2, kNarrowRows = 16;
  static constexpr int kGroup = 16, kStepUnit = 1;
  struct Session {
    Session() {}
  };

  static Vector broadcast(const Word* word) {
    using Words = uint32_t __attribute__((vector_size(64)));
    return (Vector)(Words{} + *word);
  }
  static Vector multiply_add(Vector sum, Vector a, Vector b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static void store(Element* to, Vector sum, int64_t count) {
    const __m256bh rounded = _mm512_cvtneps_pbh(sum);
    if (count >= kLanes) {
      std::memcpy(to, &rounded, sizeof(rounded));
    } else {
      std::memcpy(to, &rounded, count * sizeof(Element));
    }
  }
};

#include "convolution_vectors.inc"
#include "convolution_scheme.inc"
#include "convolution_weights.inc"

}  // namespace

extern const Operations kAvx512Bf16Operations = {
    "avx512_bf16", true, kEmulated ? InstructionSet::kNone : InstructionSet::kAvx512Bf16,
    forward, input_gradient, weight_gradient, peak};

}  // namespace kernels

TARGET_END
