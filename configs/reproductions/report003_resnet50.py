"""Report 003, CIFAR-10: the ELU ResNet-50, 75 % test in the report.

Bottleneck blocks, as in He et al.'s ResNet-50; as printed they cannot run, and models/elu_resnet.py
says how they were mended (23,584,650 parameters). The report calls its own "unoptimized and poorly
implemented". Without dropout and plateau, for the reasons in report003_resnet20; the bottlenecks'
last convolution has the printed penalty, 1e-5.
"""

import ml_collections

from configs.reproductions import report003_resnet20

REPORTED = "75 % test"


def get_config() -> ml_collections.ConfigDict:
  config = report003_resnet20.get_config()
  config.model.name = "elu_resnet50"
  config.loss.l2 = (("(stem_conv|shortcut_conv|conv3)/kernel$", 1e-5), ("conv.?/kernel$", 1e-4))
  return config
