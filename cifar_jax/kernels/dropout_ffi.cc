// Dropout as XLA calls it: x [examples..., size...] with keys [examples..., 2]. All axes of the keys
// but the last count examples, also those that jax.vmap puts there.
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
  const int64_t examples = keys.element_count() / 2;
  if ((!bfloat16 && x.element_type() != ffi::DataType::F32) ||
      keys.element_type() != ffi::DataType::U32 || keep.element_type() != ffi::DataType::F32 ||
      examples == 0 || x.element_count() % examples || keep.element_count() == 0) {
    return ffi::Error::InvalidArgument("dropout: x must be examples with a key each");
  }
  const DropoutPasses* passes = dropout_passes(bfloat16);
  if (!passes) return ffi::Error::Internal("dropout: this processor has no kernels");
  const Dropout dropout = {examples, static_cast<int64_t>(x.element_count()) / examples,
                           keys.typed_data<uint32_t>(), *keep.typed_data<float>()};
  passes->drop(dropout, x.untyped_data(), y->untyped_data(),
               on_threads(pool));
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(dropout_forward, drop,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Ret<Buffer>());

}  // namespace kernels
