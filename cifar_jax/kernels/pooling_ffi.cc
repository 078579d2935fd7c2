// Max-pooling as XLA calls it: images [..., height, width, channels]. All axes before count images,
// including those that jax.vmap adds.
#include "buffers.h"
#include "pooling.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {
namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// Calls run(passes, pooling, parallel_for) for images x. y holds their maxima, or gradients of them.
template <typename Run>
ffi::Error call(ffi::ThreadPool pool, const Buffer& x, const Buffer& y, int64_t window,
                const Run& run) {
  const bool bfloat16 = x.element_type() == ffi::DataType::BF16;
  if ((!bfloat16 && x.element_type() != ffi::DataType::F32) || x.dimensions().size() < 4 ||
      window < 1) {
    return ffi::Error::InvalidArgument("pooling: x must be images of bfloat16 or float32");
  }
  const PoolingPasses* passes = pooling_passes(bfloat16);
  if (!passes) return ffi::Error::Internal("pooling: this processor has no kernels");
  const auto sizes = x.dimensions().last(3);
  const int64_t images = x.element_count() / (sizes[0] * sizes[1] * sizes[2]);
  const int64_t maxima = images * (sizes[0] / window) * (sizes[1] / window) * sizes[2];
  if (!holds(y, x.element_type(), maxima)) {
    return ffi::Error::InvalidArgument("pooling: y must hold a maximum of each window, of x's type");
  }
  const Pooling pooling = {images, sizes[0], sizes[1], sizes[2], window};
  run(*passes, pooling, on_threads(pool));
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Result y, int64_t window) {
  return call(pool, x, *y, window, [&](const PoolingPasses& passes, const Pooling& pooling,
                                       const ParallelFor& parallel_for) {
    passes.forward(pooling, x.untyped_data(), y->untyped_data(), parallel_for);
  });
}

ffi::Error gradient(ffi::ThreadPool pool, Buffer x, Buffer dy, Result dx, int64_t window) {
  if (!holds(*dx, x.element_type(), x.element_count())) {
    return ffi::Error::InvalidArgument("pooling: the gradient must be of x's type and shape");
  }
  return call(pool, x, dy, window, [&](const PoolingPasses& passes, const Pooling& pooling,
                                       const ParallelFor& parallel_for) {
    passes.gradient(pooling, x.untyped_data(), dy.untyped_data(), dx->untyped_data(),
                    parallel_for);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(pooling_forward, forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>()
                                  .Ret<Buffer>().Attr<int64_t>("window"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(pooling_gradient, gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>().Attr<int64_t>("window"));

}  // namespace kernels
