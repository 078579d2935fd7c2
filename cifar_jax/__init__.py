"""The library: data, augmentation, optimization, training steps and run folders."""
