// Batch normalisation for AVX2 and AVX-512.
#include "normalization.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "convolution.h"
#include "targets.h"

TARGET_BEGIN(TARGET_AVX2)
namespace kernels {
namespace {
namespace avx2 {
constexpr int kLanes = 8;
#include "normalization.inc"
}  // namespace avx2
}  // namespace
}  // namespace kernels
TARGET_END

TARGET_BEGIN(TARGET_AVX512)
namespace kernels {
namespace {
namespace avx512 {
constexpr int kLanes = 16;
#include "normalization.inc"
}  // namespace avx512
}  // namespace
}  // namespace kernels
TARGET_END

namespace kernels {

const NormalizationPasses* normalization_passes(bool bfloat16) {
  if (instruction_set() >= InstructionSet::kAvx512) {
    return bfloat16 ? &avx512::kPasses<uint16_t> : &avx512::kPasses<float>;
  }
  if (instruction_set() >= InstructionSet::kAvx2) {
    return bfloat16 ? &avx2::kPasses<uint16_t> : &avx2::kPasses<float>;
  }
  return nullptr;
}

}  // namespace kernels
