"""What the program stands on: data, augmentation, optimisation, training steps, run folders."""
