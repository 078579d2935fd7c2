// Maxima of windows for AVX2 and AVX-512.
#include "pooling.h"

#include <algorithm>
#include <cstring>

#include "convolution.h"
#include "targets.h"

TARGET_BEGIN(TARGET_AVX2)
namespace kernels {
namespace {
namespace avx2 {
constexpr int kLanes = 8;
#include "pooling.inc"
}  // namespace avx2
}  // namespace
}  // namespace kernels
TARGET_END

TARGET_BEGIN(TARGET_AVX512)
namespace kernels {
namespace {
namespace avx512 {
constexpr int kLanes = 16;
#include "pooling.inc"
}  // namespace avx512
}  // namespace
}  // namespace kernels
TARGET_END

namespace kernels {

const PoolingPasses* pooling_passes(bool bfloat16) {
  if (instruction_set() >= InstructionSet::kAvx512) {
    return bfloat16 ? &avx512::kPoolingPasses<uint16_t> : &avx512::kPoolingPasses<float>;
  }
  if (instruction_set() >= InstructionSet::kAvx2) {
    return bfloat16 ? &avx2::kPoolingPasses<uint16_t> : &avx2::kPoolingPasses<float>;
  }
  return nullptr;
}

}  // namespace kernels
