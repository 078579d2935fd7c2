"""The comparisons of --mode=verify, and the table of them."""

from collections.abc import Sequence
from typing import NamedTuple

from cifar_jax.runtime.text_table import format_table
from trust.differences import Difference

SAME, ROUNDING, DIFFERENT = "same bits", "same to rounding", "different"


class Line(NamedTuple):
  """One comparison.

  Attributes:
    name: what was compared.
    verdict: SAME, ROUNDING, DIFFERENT, or '' if it could not be tried.
    is_promised: whether the project promises the same bits.
    difference: None if it was not tried.
    note: how the comparison was made, or why it was not.
  """

  name: str
  verdict: str
  is_promised: bool
  difference: Difference | None
  note: str

  @property
  def holds(self) -> bool:
    """Whether the comparison came out as the project promises."""
    if self.difference is None:
      return True
    return self.verdict == SAME or (not self.is_promised and self.verdict == ROUNDING)


def describe(title: str, lines: Sequence[Line], notes: Sequence[str]) -> str:
  """Return a title, the table of all comparisons, notes and the conclusion."""
  header = ("compared with the first training", "result", "difference", "first epoch", "")
  table = format_table(header, map(_cells, lines), right=(2, 3))
  broken = [line.name for line in lines if not line.holds]
  conclusion = "everything promised holds"
  if broken:
    conclusion = f"NOT as promised (!): {'; '.join(broken)}"
  return "\n".join([title, "", table, "", *notes, conclusion])


def _cells(line: Line) -> tuple[str, ...]:
  result = line.verdict or "not tried"
  if not line.holds:
    result += " (!)"
  difference = line.difference
  if difference is None or difference.is_same:
    return line.name, result, "", "", line.note
  epoch = "" if difference.epoch is None else str(difference.epoch)
  return line.name, result, f"{difference.weights:.1e}", epoch, line.note
