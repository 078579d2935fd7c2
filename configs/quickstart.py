"""Train a small CNN on CIFAR-10, the first run to try.

  make quickstart

or, in an environment that is already installed,

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

The network is report 000's simple CNN at half its widths (205,018 trainable parameters), trained
with SGD, Nesterov momentum and one cycle of the learning rate. If no source of CIFAR-10 is
available, it trains on scikit-learn's digits and logs a warning.

Expected: 80.7 % test accuracy after 5 epochs, 50 seconds of training on two CPU cores in bfloat16
(benchmarks/results/quickstart).
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.num_epochs = 5
  config.data.fallback = "digits"
  config.data.epoch_examples = 20_000  # repeats the digits, which are fewer; CIFAR-10 has more
  config.model.name = "simple_cnn"
  config.model.widths = (16, 32, 64)
  config.model.dense = (128,)
  config.model.dropout = 0.1
  config.augment = "random_flip()"
  config.loss.label_smoothing = 0.1
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = "one_cycle"
  config.schedule.pct_start = 0.2
  return config
