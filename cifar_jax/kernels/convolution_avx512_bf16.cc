// Convolutions of bfloat16 by AVX512-BF16 (AMD from Zen 4, Intel from Cooper Lake).
#include <immintrin.h>

#include <cstring>

#include "convolution.h"

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
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*word)));
  }
  static Vector multiply_add(Vector sum, Vector a, Vector b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static void store(Element* to, Vector sum, int64_t count) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(sum);
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
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
    "avx512_bf16", true, InstructionSet::kAvx512Bf16, forward, input_gradient, weight_gradient};

}  // namespace kernels

TARGET_END
