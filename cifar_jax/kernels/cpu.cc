// Which instruction set this machine has.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "targets.h"

namespace kernels {
namespace {

constexpr const char* kNames[] = {"none", "avx2", "avx512", "avx512_bf16", "amx"};

// Registers of CPUID, for bits that __builtin_cpu_supports does not know in every compiler.
struct Leaf {
  uint32_t a, b, c, d;
};

Leaf cpuid(uint32_t leaf, uint32_t subleaf) {
  Leaf l;
  asm("cpuid" : "=a"(l.a), "=b"(l.b), "=c"(l.c), "=d"(l.d) : "a"(leaf), "c"(subleaf));
  return l;
}

// AMX's registers take 8 KB a thread, so Linux grants them to processes that ask.
bool linux_grants_amx() {
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
}

// The best set of this processor; AMX only if `limit` is AMX.
InstructionSet find(InstructionSet limit) {
  // These checks also ask the operating system whether it saves the registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return InstructionSet::kNone;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return InstructionSet::kAvx2;
  }
  if (!(cpuid(7, 1).a >> 5 & 1)) return InstructionSet::kAvx512;
  const uint32_t d = cpuid(7, 0).d;
  const bool amx = (d >> 22 & 1) && (d >> 24 & 1) && limit == InstructionSet::kAmx;
  return amx && linux_grants_amx() ? InstructionSet::kAmx : InstructionSet::kAvx512Bf16;
}

InstructionSet choose() {
  InstructionSet limit = InstructionSet::kAmx;
  if (const char* name = std::getenv("CIFAR_JAX_KERNELS")) {
    for (int i = 0; i < 5; i++) {
      if (!std::strcmp(name, kNames[i])) limit = static_cast<InstructionSet>(i);
    }
  }
  return std::min(limit, find(limit));
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet set = choose();
  return set;
}

}  // namespace kernels

// The name of the instruction set, for tests.
extern "C" const char* kernels_instruction_set() {
  return kernels::kNames[static_cast<int>(kernels::instruction_set())];
}
