// Batch normalisation, activations and maxima of windows for AVX2.
#include "passes.h"

TARGET_BEGIN(TARGET_AVX2)

namespace kernels {
namespace {

constexpr int kLanes = 8;

#include "elements.inc"

#include "activations.inc"
#include "normalization.inc"
#include "pooling.inc"

}  // namespace

extern const Passes kAvx2Float32 = {kNormalizationPasses<float>, kPoolingPasses<float>};
extern const Passes kAvx2Bfloat16 = {kNormalizationPasses<uint16_t>, kPoolingPasses<uint16_t>};

}  // namespace kernels

TARGET_END
