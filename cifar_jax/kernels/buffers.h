// Checks of the buffers that XLA passes, because kernels trust types and sizes.
#pragma once

#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace kernels {

// Whether a buffer holds `elements` numbers of a type.
inline bool holds(const xla::ffi::AnyBuffer& buffer, xla::ffi::DataType type, int64_t elements) {
  return buffer.element_type() == type && static_cast<int64_t>(buffer.element_count()) == elements;
}

// Whether a buffer holds `elements` numbers of a type, or none.
inline bool may_hold(const xla::ffi::AnyBuffer& buffer, xla::ffi::DataType type,
                     int64_t elements) {
  return holds(buffer, type, elements) || holds(buffer, type, 0);
}

}  // namespace kernels
