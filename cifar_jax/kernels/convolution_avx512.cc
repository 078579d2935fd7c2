// Convolutions of float32 with AVX-512.
#include <chrono>
#include <cstring>

#include "convolution.h"

TARGET_BEGIN(TARGET_AVX512)

namespace kernels {
namespace {

constexpr int kVectorLanes = 16;

#include "convolution_float32.inc"

}  // namespace

extern const Operations kAvx512Operations = {
    "avx512", false, kEmulated ? InstructionSet::kNone : InstructionSet::kAvx512,
    forward, input_gradient, weight_gradient, peak};

}  // namespace kernels

TARGET_END
