// How convolutions and passes over data divide their work.
#pragma once

#include <cstdint>
#include <functional>

namespace kernels {

// Calls the function once for each number below the first argument, on several threads.
using ParallelFor = std::function<void(int64_t, const std::function<void(int64_t)>&)>;

}  // namespace kernels
