// Batch normalisation of rows of channels, with an activation before or after it, and an addition.
#pragma once

#include <cstdint>

#include "chunks.h"

namespace kernels {

enum class Activation : int64_t { kNone, kReluBefore, kRelu, kElu, kGelu };  // as normalization.py

// y = a((x − mean) · factor + bias + residual), where a is the activation; for kReluBefore a does
// nothing, and max(0, x) replaces x. x, dy, y, residual: [rows, channels], bfloat16 or float32;
// mean, factor, bias and all sums: [channels].
struct Normalization {
  int64_t rows, channels;
  Activation activation;
  const float *mean, *factor, *bias;
};

// The four passes over the data for one element type. Sums are float32 within a chunk of rows
// and float64 over the chunks, which depend on the shape alone.
struct NormalizationPasses {
  // sum ← Σ x, square ← Σ x²
  void (*statistics)(const Normalization&, const void* x, double* sum, double* square,
                     const ParallelFor&);
  // residual may be null.
  void (*normalize)(const Normalization&, const void* x, const void* residual, void* y,
                    const ParallelFor&);
  // sum ← Σ dy, product ← Σ dy · (x − mean), with the gradient before the activation in place of
  // dy. With an addition and kRelu, y must be given (otherwise it is null), and that gradient is
  // also stored in `passed`. No other activation may follow an addition.
  void (*gradient_sums)(const Normalization&, const void* x, const void* dy, const void* y,
                        double* sum, double* product, void* passed, const ParallelFor&);
  // dx ← dy · factor + (x − mean) · slope + offset, with the gradient before the activation in place
  // of dy; for kReluBefore only where x > 0.
  void (*input_gradient)(const Normalization&, const void* x, const void* dy, const float* slope,
                         const float* offset, void* dx, const ParallelFor&);
};

// The passes for this processor, or null.
const NormalizationPasses* normalization_passes(bool bfloat16);

}  // namespace kernels
