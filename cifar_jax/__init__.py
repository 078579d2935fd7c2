"""What the program stands on: data, augmentation, optimization, training steps, run folders."""
