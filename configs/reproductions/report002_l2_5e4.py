"""Report 002's search on model 3: L2 5e-4, no dropout, 70.4 % validation (see report002_l2_0)."""

import ml_collections

from configs.reproductions import report002_l2_0

REPORTED = "70.4 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report002_l2_0.get_config()
  config.loss.l2 = (("conv.*kernel$", 5e-4),)
  return config
