"""Report 004, model c: model a with batch norm before each ReLU.

  python main.py --config=configs/reproductions/report004_c.py --workdir=runs/report004_c

Model c has no biases where batch norm follows, Adam at 1e-2, and batches of 64. The listing uses
`Activation`, which it does not import, and prints no output.

Reported: no figures. Ours, one seed in bfloat16: 75.3 % validation and test in epoch 6
(benchmarks/results/report004_c); an earlier version of the code trained the first 15 of 50 epochs.
In float32, with a validation fifth stratified by class: 77.2 % and 77.0 %. The report says that
with batch norm the training loss falls more smoothly and ends lower: here it is below report004_a's
until epoch 7 (0.439 against 0.455), about equal until epoch 14, and ends at 0.095 against 0.105.
The last ten epochs have 77.5 to 80.1 % validation (report004_a: 73.9 to 75.5 %), more than the
epoch of the lowest validation loss.
"""

import ml_collections

from configs.reproductions import report004_a

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report004_a.get_config()
  config.model.name = "two_block_cnn_bn"
  config.batch_size = 64
  config.optimizer.learning_rate = 1e-2
  return config
