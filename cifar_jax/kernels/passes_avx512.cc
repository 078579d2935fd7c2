// Batch normalisation, activations and maxima of windows for AVX-512.
#include "passes.h"

TARGET_BEGIN(TARGET_AVX512)

namespace kernels {
namespace {

constexpr int kLanes = 16;

#include "elements.inc"

#include "activations.inc"
#include "normalization.inc"
#include "pooling.inc"

}  // namespace

extern const Passes kAvx512Float32 = {kNormalizationPasses<float>, kPoolingPasses<float>};
extern const Passes kAvx512Bfloat16 = {kNormalizationPasses<uint16_t>, kPoolingPasses<uint16_t>};

}  // namespace kernels

TARGET_END
