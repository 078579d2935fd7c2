// Batch normalisation as XLA calls it: arrays of [rows, channels] or [channels], with leading axes
// where jax.vmap asks for several at once (all arrays then have the same ones).
// An array of size 0 stands for none.
#include <algorithm>
#include <vector>

#include "buffers.h"
#include "normalization.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {
namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// Array `i` of the `count` arrays that the buffer stacks; null for none.
template <typename Element = char>
Element* at(const Buffer& buffer, int64_t i, int64_t count) {
  const int64_t bytes = buffer.size_bytes() / count;
  return bytes ? reinterpret_cast<Element*>(static_cast<char*>(buffer.untyped_data()) + i * bytes)
               : nullptr;
}

void round_to_float(const std::vector<double>& values, double scale, float* to) {
  for (size_t i = 0; i < values.size(); i++) to[i] = static_cast<float>(values[i] * scale);
}

// The buffers that a call reads and writes besides x.
struct Operands {
  std::vector<const Buffer*> rows;           // like x
  std::vector<const Buffer*> rows_or_none;   // like x, or none
  std::vector<const Buffer*> parameters;     // mean, factor and bias of each channel; or none
  std::vector<const Buffer*> sums;           // of each channel
  std::vector<const Buffer*> sums_or_none;
};

// Calls run(passes, normalization, i, count, parallel_for) for each array i that x stacks.
template <typename Run>
ffi::Error for_each(ffi::ThreadPool pool, const Buffer& x, int64_t activation,
                    const Operands& operands, const Run& run) {
  const auto type = x.element_type();
  const bool bfloat16 = type == ffi::DataType::BF16;
  const size_t rank = x.dimensions().size();
  if ((!bfloat16 && type != ffi::DataType::F32) || rank < 2 || activation < 0 ||
      activation > static_cast<int64_t>(Activation::kGelu)) {
    return ffi::Error::InvalidArgument("normalization: x must be rows of bfloat16 or float32");
  }
  const auto sizes = x.dimensions().last(2);
  int64_t count = 1;
  for (const int64_t size : x.dimensions().first(rank - 2)) count *= size;
  const auto all = [](const std::vector<const Buffer*>& buffers, auto fits, auto of, int64_t size) {
    return std::all_of(buffers.begin(), buffers.end(),
                       [&](const Buffer* buffer) { return fits(*buffer, of, size); });
  };
  const int64_t elements = x.element_count(), channels = count * sizes[1];
  if (!all(operands.rows, holds, type, elements) ||
      !all(operands.rows_or_none, may_hold, type, elements)) {
    return ffi::Error::InvalidArgument("normalization: rows must be of x's type and shape");
  }
  if (!all(operands.parameters, holds, ffi::DataType::F32, channels) ||
      !all(operands.sums, holds, ffi::DataType::F32, channels) ||
      !all(operands.sums_or_none, may_hold, ffi::DataType::F32, channels)) {
    return ffi::Error::InvalidArgument(
        "normalization: statistics and parameters must be float32, one for each channel");
  }
  const NormalizationPasses* passes = normalization_passes(bfloat16);
  if (!passes) return ffi::Error::Internal("normalization: this processor has no kernels");
  const ParallelFor on_pool = on_threads(pool);
  for (int64_t i = 0; i < count; i++) {
    Normalization n = {sizes[0], sizes[1], static_cast<Activation>(activation), nullptr, nullptr, nullptr};
    if (!operands.parameters.empty()) {
      n.mean = at<float>(*operands.parameters[0], i, count);
      n.factor = at<float>(*operands.parameters[1], i, count);
      n.bias = at<float>(*operands.parameters[2], i, count);
    }
    run(*passes, n, i, count, on_pool);
  }
  return ffi::Error::Success();
}

ffi::Error statistics(ffi::ThreadPool pool, Buffer x, Result mean, Result square, int64_t activation) {
  return for_each(pool, x, activation, {{}, {}, {}, {&*mean, &*square}, {}},
                  [&](const NormalizationPasses& passes, const Normalization& n, int64_t i,
                      int64_t count, const ParallelFor& parallel_for) {
    std::vector<double> sum(n.channels), sum_of_squares(n.channels);
    passes.statistics(n, at(x, i, count), sum.data(), sum_of_squares.data(), parallel_for);
    round_to_float(sum, 1.0 / n.rows, at<float>(*mean, i, count));
    round_to_float(sum_of_squares, 1.0 / n.rows, at<float>(*square, i, count));
  });
}

ffi::Error normalize(ffi::ThreadPool pool, Buffer x, Buffer residual, Buffer mean, Buffer factor,
                     Buffer bias, Result y, int64_t activation) {
  const auto kind = static_cast<Activation>(activation);
  if (residual.size_bytes() && kind != Activation::kNone && kind != Activation::kRelu) {
    return ffi::Error::InvalidArgument("normalization: only the ReLU may follow an addition");
  }
  return for_each(pool, x, activation, {{&*y}, {&residual}, {&mean, &factor, &bias}, {}, {}},
                  [&](const NormalizationPasses& passes, const Normalization& n, int64_t i,
                      int64_t count, const ParallelFor& parallel_for) {
    passes.normalize(n, at(x, i, count), at(residual, i, count), at(*y, i, count), parallel_for);
  });
}

ffi::Error gradient_sums(ffi::ThreadPool pool, Buffer x, Buffer dy, Buffer y, Buffer mean,
                         Buffer factor, Buffer bias, Result sum, Result product, Result passed,
                         int64_t activation) {
  return for_each(pool, x, activation,
                  {{&dy}, {&y, &*passed}, {&mean, &factor, &bias}, {&*sum, &*product}, {}},
                  [&](const NormalizationPasses& passes, const Normalization& n, int64_t i,
                      int64_t count, const ParallelFor& parallel_for) {
    std::vector<double> sums(n.channels), products(n.channels);
    passes.gradient_sums(n, at(x, i, count), at(dy, i, count), at(y, i, count), sums.data(),
                         products.data(), at(*passed, i, count), parallel_for);
    round_to_float(sums, 1, at<float>(*sum, i, count));
    round_to_float(products, 1, at<float>(*product, i, count));
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer x, Buffer dy, Buffer mean, Buffer factor,
                          Buffer bias, Buffer slope, Buffer offset, Result dx, int64_t activation) {
  return for_each(pool, x, activation,
                  {{&dy, &*dx}, {}, {&mean, &factor, &bias}, {}, {&slope, &offset}},
                  [&](const NormalizationPasses& passes, const Normalization& n, int64_t i,
                      int64_t count, const ParallelFor& parallel_for) {
    passes.input_gradient(n, at(x, i, count), at(dy, i, count), at<float>(slope, i, count),
                          at<float>(offset, i, count), at(*dx, i, count), parallel_for);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(normalization_statistics, statistics,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>()
                                  .Ret<Buffer>().Ret<Buffer>().Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(normalization_normalize, normalize,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>().Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(normalization_gradient_sums, gradient_sums,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>().Ret<Buffer>().Ret<Buffer>().Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(normalization_input_gradient, input_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>().Attr<int64_t>("activation"));

}  // namespace kernels
