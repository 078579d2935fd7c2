// The operations that this library has, and the memory they work in.
#include <cstdlib>
#include <new>

#include "convolution.h"

namespace kernels {

extern const Operations kAvx2Operations, kAvx512Operations, kAvx512Bf16Operations, kAmxOperations;

std::vector<const Operations*> all_operations() {
  return {&kAvx2Operations, &kAvx512Operations, &kAvx512Bf16Operations, &kAmxOperations};
}

const Operations* best_operations(bool bfloat16) {
  const Operations* best = nullptr;
  for (const Operations* o : all_operations()) {
    if (o->bfloat16 == bfloat16 && instruction_set() >= o->needs) best = o;
  }
  return best;
}

namespace {

struct Memory {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Memory() { std::free(data); }
};

}  // namespace

// Kept between calls, because fresh memory costs page faults.
void* scratch(Slot slot, int64_t bytes) {
  static thread_local Memory memories[static_cast<int>(Slot::kCount)];
  Memory& memory = memories[static_cast<int>(slot)];
  if (memory.bytes < bytes) {
    std::free(memory.data);
    memory.bytes = 0;
    const int64_t rounded = (bytes + 4095) / 4096 * 4096;
    memory.data = std::aligned_alloc(4096, rounded);
    if (!memory.data) throw std::bad_alloc();
    memory.bytes = rounded;
  }
  return memory.data;
}

}  // namespace kernels

// The instruction set that convolutions of bfloat16 (else float32) use, or null: for Python.
extern "C" const char* kernels_convolution(int bfloat16) {
  const kernels::Operations* best = kernels::best_operations(bfloat16);
  return best ? best->name : nullptr;
}

// The peak floating-point operations per second of the calling thread, or 0: for Python.
extern "C" double kernels_peak(int bfloat16) {
  const kernels::Operations* best = kernels::best_operations(bfloat16);
  return best ? best->peak() : 0;
}
