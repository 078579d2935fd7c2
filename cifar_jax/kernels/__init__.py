"""CPU kernels in C++: convolutions and what stands between them, called through `jax.ffi`."""
