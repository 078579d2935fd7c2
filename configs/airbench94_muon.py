"""airbench94_muon (KellerJordan/cifar10-airbench, 2024): 94 % in 8 epochs with Muon.

Published: 94.01 % test accuracy, the mean of 200 runs, with test-time augmentation; 2.59 seconds on
an A100 (airbench94_muon.py, PyTorch in float16). Ours: not run. The protocol is airbench94's.

Convolutions learn by Muon at a rate of 0.24, all else by SGD. The published rates of SGD, 0.67 for
the dense layer and 0.053 for the biases, are for the sum of the losses over a batch of 2,000, and
so 2,000 times as much for their mean; lr_multipliers has them as multiples of 0.24. Weight decay is
published as 2e-6 per example over the rate: 2e-6 / 0.67 and 2e-6 / 0.053 in PyTorch's sense, L2
coefficients of half as much. The logits are divided by the 256 inputs of the dense layer, whose
weights begin with a standard deviation of 1.

Apart from the published: the rate of the whitening's bias falls as all others do, not to 0 within
the three epochs in which it is trained.
"""

import ml_collections

from configs import airbench94

REPORTED = "94.01 % test with multicrop, 200 runs"

BATCH = 2000
MUON_LR, HEAD_LR, BIAS_LR = 0.24, 0.67, 0.053


def get_config() -> ml_collections.ConfigDict:
  config = airbench94.get_config()
  config.model.scale = 1 / 256
  config.model.unit_head = True
  config.num_epochs = 8
  config.last_epoch = 1.0
  config.batch_size = BATCH
  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "muon_sgd",
      "learning_rate": MUON_LR,
      "weight_decay": 0.0,
      "clip_norm": 0.0,
      "freeze": ("^whiten/kernel$",),
      "freeze_after": (("^whiten/bias$", 3),),
      "lr_multipliers": (
        ("^head/", BATCH * HEAD_LR / MUON_LR),
        ("bias$", BATCH * BIAS_LR / MUON_LR),
      ),
    }
  )
  config.loss.l2 = (("^head/", 1e-6 / HEAD_LR), ("bias$", 1e-6 / BIAS_LR))
  config.lookahead.every = 0
  config.schedule.pct_start = 0.0
  config.schedule.final = 0.0
  return config
