"""Report 002's search on model 3: L2 5e-2, no dropout (see report002_l2_0).

  python main.py --config=configs/reproductions/report002_l2_5e2.py --workdir=runs/report002_l2_5e2

Reported: no figures; "the log-loss and accuracy were low in both training and validation datasets".
Ours: not run.

So large a penalty should shrink the kernels of the convolutions to zero. All images would then look
alike, the accuracy stay at 10 % and the loss at 2.303, which is low only beside the losses of 5e-5.
"""

import ml_collections

from configs.reproductions import report002_l2_0

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report002_l2_0.get_config()
  config.loss.l2 = (("conv.*kernel$", 5e-2),)
  return config
