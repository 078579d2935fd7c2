// Batch normalisation, activations, max-pooling and dropout for AVX-512.
#include "passes.h"

TARGET_BEGIN(TARGET_AVX512)

namespace kernels {
namespace {

constexpr int kLanes = 16;

#include "elements.inc"

#include "activations.inc"
#include "dropout.inc"
#include "normalization.inc"
#include "pooling.inc"

template <typename Element>
constexpr Passes kPasses = {kNormalizationPasses<Element>, kPoolingPasses<Element>,
                            kDropoutPasses<Element>};

}  // namespace

extern const Passes kAvx512Float32 = kPasses<float>;
extern const Passes kAvx512Bfloat16 = kPasses<uint16_t>;

}  // namespace kernels

TARGET_END
