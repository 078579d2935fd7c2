// The convolutions as XLA calls them: checks buffers and attributes, and loops over leading axes.
#include <string>
#include <vector>

#include "buffers.h"
#include "convolution.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {
namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Numbers = ffi::Span<const int64_t>;

// An operand whose last `rank` axes are those of one convolution. The axes before count several
// convolutions, as jax.vmap asks for.
struct Operand {
  const Buffer& buffer;
  size_t rank;

  std::vector<int64_t> loops() const {
    const auto sizes = buffer.dimensions();
    return {sizes.begin(), sizes.end() - rank};
  }

  // The data of convolution `index`, counted over the axes `all`. An axis of size 1 is read again.
  char* at(const std::vector<int64_t>& all, int64_t index) const {
    const std::vector<int64_t> sizes = loops();
    int64_t place = 0, stride = buffer.size_bytes();
    for (const int64_t size : sizes) stride /= size;
    for (size_t i = sizes.size(); i-- > 0;) {
      if (sizes[i] > 1) place += index % all[i] * stride;
      stride *= sizes[i];
      index /= all[i];
    }
    return static_cast<char*>(buffer.untyped_data()) + place;
  }
};

// Calls run(operations, convolution, index, parallel_for, threads) for each convolution that the
// leading axes of `result` count. x is the input of a convolution, w its weights, bias none or
// a number for each filter, y its output (or gradients of these).
template <typename Run>
ffi::Error for_each(ffi::ThreadPool pool, const Buffer& x, const Buffer& w, const Buffer* bias,
                    const Buffer& y, const Operand& result, Numbers strides, Numbers padding,
                    const Run& run) {
  const auto type = x.element_type();
  const bool bfloat16 = type == ffi::DataType::BF16;
  if ((!bfloat16 && type != ffi::DataType::F32) || w.element_type() != type ||
      y.element_type() != type || strides.size() != 2 || padding.size() != 2) {
    return ffi::Error::InvalidArgument("convolution: operands must all be bfloat16 or float32");
  }
  if (x.dimensions().size() < 4 || w.dimensions().size() < 4 || y.dimensions().size() < 4) {
    return ffi::Error::InvalidArgument("convolution: operands must have at least four axes");
  }
  if (bias) {
    const auto sizes = bias->dimensions();
    const int64_t filters = w.dimensions().back(), numbers = sizes.size() ? sizes.back() : -1;
    if (bias->element_type() != ffi::DataType::F32 || (numbers && numbers != filters)) {
      return ffi::Error::InvalidArgument("convolution: bias must be float32, one for each filter");
    }
  }
  const Operations* operations = best_operations(bfloat16);
  if (!operations) return ffi::Error::Internal("convolution: this processor has no kernels");
  const auto xs = x.dimensions().last(4), ws = w.dimensions().last(4), ys = y.dimensions().last(4);
  const Convolution c = {xs[0], xs[1], xs[2], xs[3], ws[0], ws[1], ws[3],
                         ys[1], ys[2], strides[0], strides[1], padding[0], padding[1]};
  const int64_t threads = pool.num_threads() > 1 ? pool.num_threads() : 1;
  const ParallelFor on_pool = on_threads(pool);
  int64_t count = 1;
  for (const int64_t size : result.loops()) count *= size;
  for (int64_t i = 0; i < count; i++) run(*operations, c, i, on_pool, threads);
  return ffi::Error::Success();
}

// A bias, or its gradient, of size 0 means none.
float* bias_at(const Operand& bias, const std::vector<int64_t>& loops, int64_t index) {
  return bias.buffer.size_bytes() ? reinterpret_cast<float*>(bias.at(loops, index)) : nullptr;
}

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer w, Buffer bias, Result y, Numbers strides,
                   Numbers padding) {
  const Operand xs{x, 4}, ws{w, 4}, biases{bias, 1}, ys{*y, 4};
  const auto loops = ys.loops();
  return for_each(pool, x, w, &bias, *y, ys, strides, padding,
                  [&](const Operations& o, const Convolution& c, int64_t i,
                      const ParallelFor& parallel_for, int64_t threads) {
                    o.forward(c, xs.at(loops, i), ws.at(loops, i), bias_at(biases, loops, i),
                              ys.at(loops, i), parallel_for, threads);
                  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer dy, Buffer w, Result dx, Numbers strides,
                          Numbers padding) {
  const Operand dys{dy, 4}, ws{w, 4}, dxs{*dx, 4};
  const auto loops = dxs.loops();
  return for_each(pool, *dx, w, nullptr, dy, dxs, strides, padding,
                  [&](const Operations& o, const Convolution& c, int64_t i,
                      const ParallelFor& parallel_for, int64_t threads) {
                    o.input_gradient(c, dys.at(loops, i), ws.at(loops, i), dxs.at(loops, i),
                                     parallel_for, threads);
                  });
}

ffi::Error weight_gradient(ffi::ThreadPool pool, Buffer x, Buffer dy, Result dw, Result dbias,
                           Numbers strides, Numbers padding) {
  const Operand xs{x, 4}, dys{dy, 4}, dws{*dw, 4}, dbiases{*dbias, 1};
  const auto loops = dws.loops();
  return for_each(pool, x, *dw, &*dbias, dy, dws, strides, padding,
                  [&](const Operations& o, const Convolution& c, int64_t i,
                      const ParallelFor& parallel_for, int64_t threads) {
                    o.weight_gradient(c, xs.at(loops, i), dys.at(loops, i), dws.at(loops, i),
                                      bias_at(dbiases, loops, i), parallel_for, threads);
                  });
}

}  // namespace
}  // namespace kernels

#define BUFFER xla::ffi::AnyBuffer
#define NUMBERS xla::ffi::Span<const int64_t>

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_forward, kernels::forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<BUFFER>()
                                  .Arg<BUFFER>()
                                  .Arg<BUFFER>()
                                  .Ret<BUFFER>()
                                  .Attr<NUMBERS>("strides")
                                  .Attr<NUMBERS>("padding"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_input_gradient, kernels::input_gradient,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<BUFFER>()
                                  .Arg<BUFFER>()
                                  .Ret<BUFFER>()
                                  .Attr<NUMBERS>("strides")
                                  .Attr<NUMBERS>("padding"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_weight_gradient, kernels::weight_gradient,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<BUFFER>()
                                  .Arg<BUFFER>()
                                  .Ret<BUFFER>()
                                  .Ret<BUFFER>()
                                  .Attr<NUMBERS>("strides")
                                  .Attr<NUMBERS>("padding"));
