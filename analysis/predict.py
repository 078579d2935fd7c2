"""What trained networks say of image files: `--mode=predict`, and for notebooks

  from analysis.predict import load_run

  run = load_run("/tmp/run")
  probabilities = run.predict(images)  # uint8 [n, height, width, channels]

A network knows only its own classes, and names one of them for whatever it is shown. A prediction
is flagged as probably none of the classes if its probability is below MIN_PROBABILITY, or if the
entropy of all probabilities is above MAX_ENTROPY of what it is when all classes are equally likely.
Such flags are a hint and no more. With a CIFAR-10 network of 73 % test accuracy they mark 17 % of
the test images that it gets right and 52 % of those that it gets wrong, 44 % of handwritten digits
and 49 % of images of noise; and a flower that it is 64 % sure is a dog goes unmarked.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis import images
from analysis.run import Run, load_run
from cifar_jax import errors
from cifar_jax.runtime.console import progress

__all__ = ["MAX_ENTROPY", "MIN_PROBABILITY", "Run", "load_run", "predict"]

MIN_PROBABILITY = 0.4
MAX_ENTROPY = 0.7  # 1 is that of equal probabilities
ALL_READ, NONE_READ, SOME_SKIPPED = 0, 1, 2  # exit codes
_FLAG = "none of these?"
_TOP = 5  # classes told of an image
_AT_ONCE = 250  # files decoded before the networks compute


def predict(
  workdirs: Sequence[str | os.PathLike],
  paths: Sequence[str | os.PathLike],
  as_json: bool = False,
  seed: int | None = None,
  min_probability: float = MIN_PROBABILITY,
  max_entropy: float = MAX_ENTROPY,
) -> tuple[str, int]:
  """Classifies image files by each of several networks.

  Args:
    workdirs: run folders, each a column.
    paths: image files, and folders that are searched for them.
    as_json: JSON instead of a table.
    seed: of runs with several seeds, whose weights to take; None for the first.
    min_probability, max_entropy: what is flagged (see above).

  Returns:
    The text to print, and the exit code: 0 if every file was read, 1 if none was, 2 if some were
    skipped; the text names each with the reason.

  Raises:
    UserError: a run folder cannot be used, no images are named, or a folder holds none.
  """
  files = images.find(paths)
  if not workdirs:
    raise errors.UserError("workdir: missing; name the folder of a run that has trained")
  loaded = [load_run(workdir, seed) for workdir in workdirs]
  names = _names(loaded)
  recipes = [images.how_to_decode(run) for run in loaded]

  rows: list[dict[str, Any]] = []
  skipped: list[dict[str, str]] = []
  with progress("predict", len(files), "images") as advance:
    for start in range(0, len(files), _AT_ONCE):
      read: list[str] = []
      decoded: dict[tuple, list[np.ndarray]] = {recipe: [] for recipe in recipes}
      for file in files[start : start + _AT_ONCE]:
        try:
          content = images.read(file)
          made = {recipe: images.decode(content, *recipe) for recipe in decoded}
        except Exception as error:  # a file's bytes can make Pillow raise almost anything
          skipped.append({"file": images.printable(file), "reason": _reason(error)})
          continue
        read.append(images.printable(file))
        for recipe, image in made.items():
          decoded[recipe].append(image)
      if read:
        columns = []
        for name, run, recipe in zip(names, loaded, recipes, strict=True):
          found = run.predict(np.stack(decoded[recipe]))
          columns.append([_prediction(name, run, p, min_probability, max_entropy) for p in found])
        rows += [
          {"file": file, "predictions": list(of_file)}
          for file, *of_file in zip(read, *columns, strict=True)
        ]
      advance(min(_AT_ONCE, len(files) - start))

  code = (SOME_SKIPPED if rows else NONE_READ) if skipped else ALL_READ
  thresholds = {"min_probability": min_probability, "max_entropy": max_entropy}
  if as_json:
    about = [
      {"name": name, "path": str(run.path), "seed": run.seed, "step": run.step}
      for name, run in zip(names, loaded, strict=True)
    ]
    told = {"runs": about, "thresholds": thresholds, "images": rows, "skipped": skipped}
    return json.dumps(told, indent=2, ensure_ascii=False), code
  return _table(names, rows, skipped, thresholds), code


def _names(loaded: list[Run]) -> list[str]:
  """What to call each run: its folder's name, or the path where two have the same name."""
  short = [run.name for run in loaded]
  return [
    name if short.count(name) == 1 else str(run.path)
    for name, run in zip(short, loaded, strict=True)
  ]


def _reason(error: Exception) -> str:
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return " ".join(str(error).split()) or type(error).__name__


def _prediction(
  name: str, run: Run, probabilities: np.ndarray, min_probability: float, max_entropy: float
) -> dict[str, Any]:
  p = probabilities.astype(np.float64)
  best = np.argsort(-p, kind="stable")[:_TOP]
  entropy = float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))) / np.log(len(p)))
  ranked = [{"class": run.class_names[i], "probability": float(p[i])} for i in best]
  return {
    "run": name,
    **ranked[0],
    "top5": ranked,
    "normalized_entropy": entropy,
    "probably_none_of_the_classes": bool(p.max() < min_probability or entropy > max_entropy),
  }


def _table(
  names: list[str],
  rows: list[dict[str, Any]],
  skipped: list[dict[str, str]],
  thresholds: dict[str, float],
) -> str:
  """The likeliest class of each file by each run, and in the lines below the next ones."""
  lines = []
  if rows:
    cells = [["file"] + ["class", "probability", "flag"] * len(names)]
    for row in rows:
      found = row["predictions"]
      for rank in range(max(len(prediction["top5"]) for prediction in found)):
        line = ["" if rank else row["file"]]
        for prediction in found:
          if rank >= len(prediction["top5"]):
            line += [""] * 3
            continue
          one = prediction["top5"][rank]
          flagged = rank == 0 and prediction["probably_none_of_the_classes"]
          line += [one["class"], f"{one['probability']:.2%}", _FLAG if flagged else ""]
        cells.append(line)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for i, name in enumerate(names):  # a name stands above the three columns of its run
      of_run = widths[3 * i + 1 : 3 * i + 4]
      widths[3 * i + 1] += max(0, len(name) - sum(of_run) - 4)
    above = " " * widths[0]
    for i, name in enumerate(names):
      above += "  " + name.ljust(sum(widths[3 * i + 1 : 3 * i + 4]) + 4)
    lines.append(above.rstrip())
    for line in cells:
      padded = [
        text.rjust(width) if i % 3 == 2 else text.ljust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
      ]
      lines.append("  ".join(padded).rstrip())
    if any(p["probably_none_of_the_classes"] for row in rows for p in row["predictions"]):
      lines.append(
        f"{_FLAG} marks a probability below {thresholds['min_probability']:.0%}, or an entropy "
        f"above {thresholds['max_entropy']:.0%} of the highest there can be"
      )
  lines += [f"skipped {bad['file']}: {bad['reason']}" for bad in skipped]
  return "\n".join(lines)
