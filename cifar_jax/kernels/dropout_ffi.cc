// Dropout as XLA calls it: x [examples..., size...] with keys [examples..., 2]. All axes of the keys
// but the last count examples, including those that jax.vmap adds; it may stack probabilities too.
#include "buffers.h"
#include "dropout.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {
namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

ffi::Error drop(ffi::ThreadPool pool, Buffer x, Buffer keys, Buffer keep, Result y) {
  const bool bfloat16 = x.element_type() == ffi::DataType::BF16;
  const int64_t elements = x.element_count(), examples = keys.element_count() / 2;
  const int64_t stacked = keep.element_count();
  if ((!bfloat16 && x.element_type() != ffi::DataType::F32) ||
      keys.element_type() != ffi::DataType::U32 || keys.dimensions().back() != 2 ||
      keep.element_type() != ffi::DataType::F32 || stacked == 0 || examples == 0 ||
      examples % stacked || elements % examples || !holds(*y, x.element_type(), elements)) {
    return ffi::Error::InvalidArgument("dropout: x must be examples with a key of two words each");
  }
  const DropoutPasses* passes = dropout_passes(bfloat16);
  if (!passes) return ffi::Error::Internal("dropout: this processor has no kernels");
  for (int64_t i = 0; i < stacked; i++) {
    const Dropout dropout = {examples / stacked, elements / examples,
                             keys.typed_data<uint32_t>() + i * (examples / stacked) * 2,
                             keep.typed_data<float>()[i]};
    const int64_t start = i * (x.size_bytes() / stacked);
    passes->drop(dropout, static_cast<const char*>(x.untyped_data()) + start,
                 static_cast<char*>(y->untyped_data()) + start, on_threads(pool));
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(dropout_forward, drop,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Ret<Buffer>());

}  // namespace kernels
