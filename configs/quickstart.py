"""Train a small airbench network to 90 % on CIFAR-10 in two minutes, the first run to try.

  make quickstart

or, in an environment that is already installed,

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

The network is that of configs/airbench94.py with half as many channels (497,528 parameters). The
recipe is the same, with 0.6 times the learning rate and batches of 512. If no source of CIFAR-10 is
available, the network trains on scikit-learn's digits, and a warning is logged.

Expected: 90.0 % test accuracy after 7 epochs, two minutes of training on two CPU cores in bfloat16
(benchmarks/results/quickstart).
"""

import ml_collections

from configs import airbench94, default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.num_epochs = 7
  config.batch_size = 512
  config.data.fallback = "digits"
  config.data.epoch_examples = 20_000  # repeats the digits; CIFAR-10 already has more
  config.model.name = "airbench"
  config.model.widths = (32, 128, 128)
  config.augment = "alternating_flip() | random_crop(padding=2, mode='reflect')"
  config.loss.label_smoothing = 0.2
  airbench94.set_optimizer(config, lr=6.9, weight_decay=0.00918)
  config.schedule.name = "linear"
  config.schedule.pct_start = 0.23
  config.schedule.initial = 0.2
  config.schedule.final = 0.07
  return config
