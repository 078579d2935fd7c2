// Convolutions of float32 with AVX2 and FMA.
#include <chrono>
#include <cstring>

#include "convolution.h"

TARGET_BEGIN(TARGET_AVX2)

namespace kernels {
namespace {

constexpr int kVectorLanes = 8;

#include "convolution_float32.inc"

}  // namespace

extern const Operations kAvx2Operations = {
    "avx2", false, kEmulated ? InstructionSet::kNone : InstructionSet::kAvx2,
    forward, input_gradient, weight_gradient, peak};

}  // namespace kernels

TARGET_END
