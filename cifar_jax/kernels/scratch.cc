// Memory that threads keep between calls, because fresh memory costs page faults.
#include <cstdlib>
#include <new>

#include "convolution.h"

namespace kernels {
namespace {

struct Memory {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Memory() { std::free(data); }
};

}  // namespace

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
