"""Report 002's search on model 3: no L2 penalty and no dropout, 68.2 % validation.

The points of the search differ from report002_model3 in their penalty and in having no dropout,
neither after the poolings nor after the dense layer. The report says so only later, when it adds
"dropout layer" to compare, and prints no code.

This point's figure is of another time than the others': its plot is followed by "Epoch 21/35", so
it was read in the midst of a file, the others' at the end of the fourth. And the validation loss
of 2.307 and training accuracy of 98.4 % printed here are also printed for 5e-5.
"""

import ml_collections

from configs.reproductions import report002_model3

REPORTED = "68.2 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model3.get_config()
  config.model.conv_dropout = 0.0
  config.model.dense_dropout = 0.0
  config.loss.l2 = ()
  return config
