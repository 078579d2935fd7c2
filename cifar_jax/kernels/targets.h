// Instruction sets: code between TARGET_BEGIN and TARGET_END is compiled for one, and may only be
// called where instruction_set() says that the processor has it.
#pragma once

#include <cstdint>

#if defined(KERNELS_EMULATED)  // tests: every instruction set on every processor (emulation.h)
#define TARGET_BEGIN(names)
#define TARGET_END
#elif defined(__clang__)
#define TARGET_PRAGMA(text) _Pragma(#text)
#define TARGET_BEGIN(names) \
  TARGET_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define TARGET_END _Pragma("clang attribute pop")
#else
#define TARGET_PRAGMA(text) _Pragma(#text)
#define TARGET_BEGIN(names) _Pragma("GCC push_options") TARGET_PRAGMA(GCC target(names))
#define TARGET_END _Pragma("GCC pop_options")
#endif

#define TARGET_AVX2 "avx2,fma"
#define TARGET_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"
#define TARGET_AVX512_BF16 "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"
#define TARGET_AMX \
  "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,amx-tile,amx-bf16"

namespace kernels {

#if defined(KERNELS_EMULATED)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

// From weakest to strongest; a processor that has one has all before it.
enum class InstructionSet { kNone, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// The best set of this processor and operating system, or a lower one that the environment variable
// CIFAR_JAX_KERNELS names (none, avx2, avx512, avx512_bf16, amx). Determined once per process; asks
// Linux for AMX if it may be used.
InstructionSet instruction_set();

}  // namespace kernels
