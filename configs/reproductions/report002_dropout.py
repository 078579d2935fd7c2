r"""Report 002's search on model 3: dropout without L2.

  python main.py --config=configs/reproductions/report002_dropout.py \
    --workdir=runs/report002_dropout

Reported: a training loss of 0.198 and a validation loss of 0.765, no accuracy. Ours, one seed in
bfloat16: a training loss of 0.199 (with dropout), a validation loss of 1.006 and 75.3 % validation
accuracy (benchmarks/results/report002_dropout). Validation losses range from 0.722 to 1.022 in the
last 35 epochs.

The report prints no dropout rates here; they are model 3's. report002_final has both dropout and
L2.
"""

import ml_collections

from configs.reproductions import report002_model3

REPORTED = "validation loss 0.765, training loss 0.198"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model3.get_config()
  config.loss.l2 = ()
  return config
