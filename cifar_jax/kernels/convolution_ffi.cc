// The convolutions as XLA calls them: buffers and attributes checked, leading axes looped over.
#include <string>
#include <vector>

#include "convolution.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {
namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Numbers = ffi::Span<const int64_t>;
using Function = decltype(Operations::forward);

// The axes before the last four, over which jax.vmap asks for several convolutions.
std::vector<int64_t> leading(const Buffer& buffer) {
  const auto sizes = buffer.dimensions();
  return {sizes.begin(), sizes.end() - 4};
}

// Bytes from the start of a buffer to its convolution `index` among those of `loops`; a buffer may
// have size 1 where the loops have more, and is then read again.
int64_t offset(const Buffer& buffer, const std::vector<int64_t>& loops, int64_t index) {
  const std::vector<int64_t> sizes = leading(buffer);
  int64_t place = 0, stride = buffer.size_bytes();
  for (const int64_t size : sizes) stride /= size;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] > 1) place += index % loops[i] * stride;
    stride *= sizes[i];
    index /= loops[i];
  }
  return place;
}

// x is what the convolution reads, w its weights, y what it makes (or gradients of these).
ffi::Error run(ffi::ThreadPool pool, Function Operations::*operation, Buffer first, Buffer second,
               Result result, Buffer x, Buffer w, Buffer y, Numbers strides, Numbers padding) {
  const auto type = x.element_type();
  const bool bfloat16 = type == ffi::DataType::BF16;
  if ((!bfloat16 && type != ffi::DataType::F32) || w.element_type() != type ||
      y.element_type() != type || strides.size() != 2 || padding.size() != 2) {
    return ffi::Error::InvalidArgument("convolution: operands must all be bfloat16 or float32");
  }
  const Operations* operations = best_operations(bfloat16);
  if (!operations) return ffi::Error::Internal("convolution: this processor has no kernels");
  const auto xs = x.dimensions().last(4), ws = w.dimensions().last(4), ys = y.dimensions().last(4);
  const Convolution c = {xs[0], xs[1], xs[2], xs[3], ws[0], ws[1], ws[3],
                         ys[1], ys[2], strides[0], strides[1], padding[0], padding[1]};
  const int64_t threads = pool.num_threads() > 1 ? pool.num_threads() : 1;
  const ParallelFor on_pool = [&](int64_t chunks, const std::function<void(int64_t)>& work) {
    parallel_for(pool, chunks, work);
  };
  const std::vector<int64_t> loops = leading(*result);
  int64_t count = 1;
  for (const int64_t size : loops) count *= size;
  for (int64_t i = 0; i < count; i++) {
    const auto at = [&](const Buffer& buffer) {
      return static_cast<char*>(buffer.untyped_data()) + offset(buffer, loops, i);
    };
    (operations->*operation)(c, at(first), at(second), at(*result), on_pool, threads);
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer w, Result y, Numbers strides,
                   Numbers padding) {
  return run(pool, &Operations::forward, x, w, y, x, w, *y, strides, padding);
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer dy, Buffer w, Result dx, Numbers strides,
                          Numbers padding) {
  return run(pool, &Operations::input_gradient, dy, w, dx, *dx, w, dy, strides, padding);
}

ffi::Error weight_gradient(ffi::ThreadPool pool, Buffer x, Buffer dy, Result dw, Numbers strides,
                           Numbers padding) {
  return run(pool, &Operations::weight_gradient, x, dy, dw, x, *dw, dy, strides, padding);
}

}  // namespace
}  // namespace kernels

#define CONVOLUTION_HANDLER(symbol, function)                      \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, kernels::function,         \
                                xla::ffi::Ffi::Bind()              \
                                    .Ctx<xla::ffi::ThreadPool>()   \
                                    .Arg<xla::ffi::AnyBuffer>()    \
                                    .Arg<xla::ffi::AnyBuffer>()    \
                                    .Ret<xla::ffi::AnyBuffer>()    \
                                    .Attr<xla::ffi::Span<const int64_t>>("strides") \
                                    .Attr<xla::ffi::Span<const int64_t>>("padding"))

CONVOLUTION_HANDLER(convolution_forward, forward);
CONVOLUTION_HANDLER(convolution_input_gradient, input_gradient);
CONVOLUTION_HANDLER(convolution_weight_gradient, weight_gradient);
