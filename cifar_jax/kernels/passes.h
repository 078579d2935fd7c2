// The passes over all data of a layer, for one instruction set and element type.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "convolution.h"
#include "dropout.h"
#include "normalization.h"
#include "pooling.h"
#include "targets.h"

namespace kernels {

struct Passes {
  NormalizationPasses normalization;
  PoolingPasses pooling;
  DropoutPasses dropout;
};

}  // namespace kernels
