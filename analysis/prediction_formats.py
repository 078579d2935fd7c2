"""The output formats of `--mode=predict`: a table, lines, JSON, JSON Lines or CSV.

Each format is a function that turns results into pieces of text as they arrive. A result is
`{"file": …, "predictions": [one for each network]}`, or `{"file": …, "reason": …}` for a file that
was skipped.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row

FLAG = "none of these?"
NUM_RANKS = 5  # classes listed for each image
MAX_TABLE_IMAGES = 200  # a longer table takes seconds, and appears only at the end
_FORMULA_STARTS = ("=", "+", "-", "@")


class Thresholds(NamedTuple):
  """When a prediction is flagged as probably none of the classes."""

  min_probability: float
  max_entropy: float


class Heading(NamedTuple):
  """The facts that all results share.

  Attributes:
    runs: name, path, seed and step of each network.
    thresholds: the thresholds of the flag.
  """

  runs: Sequence[Row]
  thresholds: Thresholds


def format_json(heading: Heading, results: Iterable[Row]) -> Iterator[str]:
  """Yield one JSON document: the networks, the thresholds, the images, the skipped files."""
  start = json.dumps({"runs": heading.runs, "thresholds": heading.thresholds._asdict()}, indent=2)
  yield start.removesuffix("\n}") + ',\n  "images": ['
  skipped, comma = [], ""
  for result in results:
    if "reason" in result:
      skipped.append(result)
      continue
    yield f"{comma}\n    " + json.dumps(result, indent=2).replace("\n", "\n    ")
    comma = ","
  end = json.dumps(skipped, indent=2).replace("\n", "\n  ")
  yield ("\n  ]" if comma else "]") + f',\n  "skipped": {end}\n}}\n'


def format_json_lines(heading: Heading, results: Iterable[Row]) -> Iterator[str]:
  """Yield a line of JSON for each image; log the skipped files."""
  for result in _log_skipped(results):
    yield json.dumps(result) + "\n"


def format_csv(heading: Heading, results: Iterable[Row]) -> Iterator[str]:
  """Yield a line for each image and network, after a header; log the skipped files.

  A quotation mark precedes text that a spreadsheet would take for a formula, such as the file name
  '=1+1.png'. Unprintable characters are escaped.
  """
  ranks = [f"{name}_{i}" for i in range(2, NUM_RANKS + 1) for name in ("class", "probability")]
  yield _csv_line(["file", "network", "class", "probability", *ranks, "flag"])
  for result in _log_skipped(results):
    for prediction in result["predictions"]:
      ranked = [cell for rank in prediction["top5"] for cell in rank.values()]
      ranked += [""] * (2 * NUM_RANKS - len(ranked))
      flag = FLAG if prediction["probably_none_of_the_classes"] else ""
      yield _csv_line([result["file"], prediction["run"], *ranked, flag])


def _csv_line(cells: Sequence[object]) -> str:
  line = io.StringIO()
  csv.writer(line, lineterminator="\n").writerow(map(_as_text, cells))
  return line.getvalue()


def _as_text(cell: object) -> object:
  if not isinstance(cell, str):
    return cell
  text = errors.printable(cell)
  return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def format_lines(heading: Heading, results: Iterable[Row]) -> Iterator[str]:
  """Yield a line for each image, with the likeliest class of every network."""
  is_flagged = False
  for result in results:
    if "reason" in result:
      yield _skipped_line(result)
      continue
    is_flagged = is_flagged or _is_flagged(result)
    classes = "; ".join(map(_describe, result["predictions"]))
    yield errors.printable(f"{result['file']}: {classes}") + "\n"
  if is_flagged:
    yield _explain_flag(heading.thresholds)


def _describe(prediction: Row) -> str:
  """Return a prediction as text, such as 'resnet18 → cat (99.12%)'."""
  flag = f", {FLAG}" if prediction["probably_none_of_the_classes"] else ""
  return f"{prediction['run']} → {prediction['class']} ({prediction['probability']:.2%}){flag}"


def format_as_table(heading: Heading, results: Iterable[Row]) -> Iterator[str]:
  """Yield a table with a line for each rank of each file, then a line for each skipped file."""
  all_results = list(results)
  rows = [result for result in all_results if "reason" not in result]
  if rows:
    header = ["file"]
    for run in heading.runs:
      header += [f"{errors.printable(run['name'])}\nclass", "probability", "flag"]
    cells = [line for row in rows for line in _table_lines(row)]
    yield format_table(header, cells, right=range(2, len(header), 3)) + "\n"
    if any(map(_is_flagged, rows)):
      yield _explain_flag(heading.thresholds)
  for result in all_results:
    if "reason" in result:
      yield _skipped_line(result)


def _table_lines(row: Row) -> list[list[str]]:
  """Return the cells of a file's lines, one line for each rank; the flag is on the first."""
  predictions = row["predictions"]
  lines = []
  for rank in range(max(len(prediction["top5"]) for prediction in predictions)):
    line = ["" if rank else row["file"]]
    for prediction in predictions:
      if rank >= len(prediction["top5"]):
        line += [""] * 3
        continue
      ranked = prediction["top5"][rank]
      flagged = rank == 0 and prediction["probably_none_of_the_classes"]
      line += [ranked["class"], f"{ranked['probability']:.2%}", FLAG if flagged else ""]
    lines.append(line)
  return lines


def _is_flagged(row: Row) -> bool:
  return any(prediction["probably_none_of_the_classes"] for prediction in row["predictions"])


def _explain_flag(limits: Thresholds) -> str:
  return (
    f"{FLAG} marks a probability below {limits.min_probability:.0%}, or an entropy above "
    f"{limits.max_entropy:.0%} of its maximum\n"
  )


def _skipped_line(result: Row) -> str:
  return errors.printable(f"skipped {result['file']}: {result['reason']}") + "\n"


def _log_skipped(results: Iterable[Row]) -> Iterator[Row]:
  for result in results:
    if "reason" in result:
      log.warning("%s", _skipped_line(result).rstrip("\n"))
    else:
      yield result


Format = Callable[[Heading, Iterable[Row]], Iterator[str]]
ENDINGS: dict[str, Format] = {
  ".csv": format_csv,
  ".jsonl": format_json_lines,
  ".json": format_json,
  ".txt": format_as_table,
}


def choose_format(ending: str, num_images: int) -> Format:
  """Return the format for a file's ending; a table of many images becomes lines."""
  chosen = ENDINGS[ending]
  is_long_table = chosen is format_as_table and num_images > MAX_TABLE_IMAGES
  return format_lines if is_long_table else chosen
