"""Verdicts on differences, as sentences."""

from collections.abc import Mapping
from typing import NamedTuple

from trust.statistics import (
  Difference,
  ImageDifference,
  SeedDifference,
  Verdict,
  distinguishable,
)


class Measure(NamedTuple):
  """How a figure is judged and shown.

  Attributes:
    scale: the factor from the recorded figure to the one that is shown.
    style: its format() style.
    unit: the text after it.
    target: the difference, as shown, that "more seeds" refers to.
    higher_is_better: whether a greater figure is the better one.
  """

  scale: float
  style: str
  unit: str
  target: float
  higher_is_better: bool


ACCURACY = Measure(100, ".2f", " points", 0.1, True)
LOSS = Measure(1, ".4f", "", 0.01, False)


def describe(verdict: Verdict, a: str, b: str, measure: Measure = ACCURACY) -> str:
  """Return a verdict as a sentence without its full stop.

  Args:
    a, b: the names of the two sides; the difference is B − A.
  """
  difference, scale = verdict.difference, measure.scale
  mean = scale * difference.mean
  evidence = f"({describe_p(verdict.p)}, {describe_basis(difference)})"
  if not verdict.is_distinguishable:
    reason = _describe_sameness(difference)
    if not reason:
      interval = _show_interval(verdict, measure, 1)
      reason = f"{b} − {a} is {interval} {evidence}; {_describe_outlook(verdict, measure)}"
    return f"{a} and {b} are not distinguishable: {reason}"
  is_better = (mean > 0) == measure.higher_is_better
  better, worse = (b, a) if is_better else (a, b)
  sign = 1 if mean > 0 else -1
  return f"{better} is better than {worse} by {_show_interval(verdict, measure, sign)} {evidence}"


def describe_lead(
  first: Mapping[int, float], second: Mapping[int, float], measure: Measure = ACCURACY
) -> str:
  """Return a sentence on whether the best of a ranking really is better than the second.

  Args:
    first, second: their figures by seed.
  """
  verdict = distinguishable(first, second)
  if verdict is not None:
    return describe(verdict, "the second", "the best", measure)
  means = [sum(side.values()) / len(side) for side in (first, second)]
  gap = f"{measure.scale * abs(means[0] - means[1]):{measure.style}}{measure.unit}"
  return (
    f"whether the best and the second are distinguishable is unknown: they differ by {gap}, and "
    "one seed has no spread; add seeds, such as seed=0,1,2"
  )


def describe_p(p: float) -> str:
  return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def describe_basis(difference: Difference) -> str:
  """Return what was compared, as text."""
  if isinstance(difference, ImageDifference):
    return f"{difference.num_images:,} images"
  if difference.num_pairs:
    return f"{difference.num_pairs} pairs of seeds"
  return "{} and {} seeds".format(*difference.counts)


def _show_interval(verdict: Verdict, measure: Measure, sign: int) -> str:
  """Return the difference times `sign`, with its uncertainty."""
  factor, style = sign * measure.scale, measure.style
  mean = factor * verdict.difference.mean
  if isinstance(verdict.difference, SeedDifference):
    half_width = measure.scale * (verdict.high - verdict.low) / 2
    text = f"{mean:{style}} ± {half_width:{style}}{measure.unit}"
  else:
    low, high = sorted((factor * verdict.low, factor * verdict.high))
    text = f"{mean:{style}} ({low:{style}} to {high:{style}}){measure.unit}"
  return text.replace("-", "−")


def _describe_sameness(difference: Difference) -> str:
  """Return in which way two sides are the same, or '' if they are not."""
  if isinstance(difference, ImageDifference):
    if difference.only_a or difference.only_b:
      return ""
    return f"both are right about the same of the {difference.num_images:,} images"
  if difference.has_spread or difference.mean:
    return ""
  if not difference.num_pairs:
    return f"all {sum(difference.counts)} seeds have the same figure"
  return f"each of the {difference.num_pairs} seeds has the same figure in both"


def _describe_outlook(verdict: Verdict, measure: Measure) -> str:
  """Return what more seeds would do for a difference that does not count."""
  difference, target = verdict.difference, f"{measure.target:g}{measure.unit}"
  if isinstance(difference, ImageDifference):
    return "several seeds of each are needed to judge the configs"
  more = difference.more_seeds(measure.target / measure.scale, verdict.alpha)
  if not more:
    return f"a difference of {target} would probably have shown"
  return f"about {more:,} more seed{'s' * (more > 1)} would show {target}"
