// The passes for this processor.
#include "passes.h"

namespace kernels {

extern const Passes kAvx2Float32, kAvx2Bfloat16, kAvx512Float32, kAvx512Bfloat16;

namespace {

const Passes* best_passes(bool bfloat16) {
  if (instruction_set() >= InstructionSet::kAvx512) {
    return bfloat16 ? &kAvx512Bfloat16 : &kAvx512Float32;
  }
  if (instruction_set() >= InstructionSet::kAvx2) {
    return bfloat16 ? &kAvx2Bfloat16 : &kAvx2Float32;
  }
  return nullptr;
}

}  // namespace

const NormalizationPasses* normalization_passes(bool bfloat16) {
  const Passes* best = best_passes(bfloat16);
  return best ? &best->normalization : nullptr;
}

const PoolingPasses* pooling_passes(bool bfloat16) {
  const Passes* best = best_passes(bfloat16);
  return best ? &best->pooling : nullptr;
}

const DropoutPasses* dropout_passes(bool bfloat16) {
  const Passes* best = best_passes(bfloat16);
  return best ? &best->dropout : nullptr;
}

}  // namespace kernels
