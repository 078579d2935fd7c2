"""CPU kernels in C++: convolutions and the passes between them, called through `jax.ffi`."""
