// Convolutions of images [batch, height, width, channels] with kernels [height, width, channels,
// filters], and their two gradients. convolution_scheme.inc explains how.
#pragma once

#include <cstdint>
#include <vector>

#include "chunks.h"
#include "targets.h"

namespace kernels {

// y[n, oy, ox, f] = bias[f] + Σ x[n, oy·stride_y − pad_y + ky, ox·stride_x − pad_x + kx, c] · w[ky, kx, c, f]
struct Convolution {
  int64_t images, height, width, channels;
  int64_t kernel_height, kernel_width, filters;
  int64_t out_height, out_width;
  int64_t stride_y, stride_x, pad_y, pad_x;  // padding above and to the left; the rest follows
};

// The three operations for one instruction set and element type. The bias and its gradient, Σ dy,
// are float32, or null. `threads` is the number that `parallel_for` has; no result depends on it.
struct Operations {
  const char* name;
  bool bfloat16;  // elements are bfloat16, else float32; sums are float32 in both
  InstructionSet needs;
  void (*forward)(const Convolution&, const void* x, const void* w, const float* bias, void* y,
                  const ParallelFor&, int64_t threads);
  void (*input_gradient)(const Convolution&, const void* dy, const void* w, void* dx,
                         const ParallelFor&, int64_t threads);
  void (*weight_gradient)(const Convolution&, const void* x, const void* dy, void* dw, float* dbias,
                          const ParallelFor&, int64_t threads);
  double (*peak)();  // peak floating-point operations per second of this thread
};

std::vector<const Operations*> all_operations();  // of this library, the best last
const Operations* best_operations(bool bfloat16);  // the best on this processor, or null

using Word = uint32_t;
constexpr int kBlockSteps = 16;  // words in a row of a left block

// One term of a sum of products of blocks: left blocks at `a`, right blocks at `b`.
struct Product {
  const Word *a, *b;
};

#define KERNEL_INLINE inline __attribute__((always_inline))

// Returns memory of the calling thread, 64-byte aligned and kept for its next call. Each use has a
// slot.
enum class Slot {
  kWeights, kBias, kPartialSums, kOwnSums, kBiasSums, kSource, kStaging, kGradient,
  kPackedGradient, kProducts, kCount
};
void* scratch(Slot slot, int64_t bytes);

}  // namespace kernels
