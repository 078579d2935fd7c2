"""Report 002's search on model 3: dropout without L2, validation loss 0.765.

Rates are model 3's, for the report prints none here, nor an accuracy. With both, dropout and L2,
it is report002_final.
"""

import ml_collections

from configs.reproductions import report002_model3

REPORTED = "validation loss 0.765"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model3.get_config()
  config.loss.l2 = ()
  return config
