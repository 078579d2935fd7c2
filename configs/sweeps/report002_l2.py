"""Report 002's search on model 3: L2 penalties without dropout, dropout alone, and both.

  python main.py --mode=sweep --sweep=configs/sweeps/report002_l2.py --workdir=runs/report002_l2

Reported validation accuracy: 68.2 % without a penalty, 68.9 % with 5e-5, 70.4 % with 5e-4, "low"
with 5e-2, and 76.3 % with dropout and 5e-4. For dropout alone the report prints only a loss, better
than without dropout. Ours: not run. The docstring of configs/reproductions/report002_l2_0.py
describes the points.
"""

from configs import sweeps
from configs.reproductions import report002_model3

_NO_DROPOUT = {"model.conv_dropout": 0.0, "model.dense_dropout": 0.0}


def _penalty(coefficient: float) -> dict[str, object]:
  return {"loss.l2": (("conv.*kernel$", coefficient),)}


def get_sweep() -> sweeps.Sweep:
  without_penalty = {"loss.l2": ()}
  return sweeps.listed(
    [
      without_penalty | _NO_DROPOUT,
      _penalty(5e-5) | _NO_DROPOUT,
      _penalty(5e-4) | _NO_DROPOUT,
      _penalty(5e-2) | _NO_DROPOUT,
      without_penalty,
      _penalty(5e-4),
    ],
    base=report002_model3,
  )
