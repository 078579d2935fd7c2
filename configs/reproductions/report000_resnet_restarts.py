"""Report 000, section d: the same ResNet with CosineDecayRestarts, about 88 % in the report.

The first cycle is 200 steps, about half an epoch, as the code has it; the rest as in
report000_resnet_plateau, without the plateau.

The report trains this one with `from_logits=True` on a softmax output. TensorFlow's Keras looks
behind such a softmax and uses its input; Keras 3 takes the softmax a second time. The report does
not say which it ran; this config takes the softmax once.
"""

import ml_collections

from configs.reproductions import report000_resnet_plateau


def get_config() -> ml_collections.ConfigDict:
  config = report000_resnet_plateau.get_config()
  config.plateau.monitor = ""
  config.schedule.name = "cosine_restarts"
  config.schedule.first_decay_steps = 200
  config.schedule.t_mul = 2.0
  config.schedule.m_mul = 0.8
  config.schedule.alpha = 1e-5
  return config
