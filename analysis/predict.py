"""Predictions on image files: `--mode=predict`.

A network knows only its classes, and assigns one of them to any image. A prediction is flagged as
probably none of the classes if its probability is below MIN_PROBABILITY, or if the entropy of all
probabilities exceeds the share MAX_ENTROPY of its maximum, which equal probabilities have. The flag
is only a hint; docs/measurements.md says how often it is right.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from analysis import images, prediction_picture, run_record
from analysis.exported import ExportedNetwork, load_network
from analysis.run import Run
from cifar_jax import errors
from cifar_jax.runs import hub
from cifar_jax.runtime.console import log, progress
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row

MIN_PROBABILITY = 0.4
MAX_ENTROPY = 0.7  # 1 is the entropy of equal probabilities
ALL_READ, NONE_READ, SOME_SKIPPED = 0, 1, 2  # exit codes
_FLAG = "none of these?"
_NUM_RANKS = 5  # classes listed for each image
_CHUNK_SIZE = 250  # files decoded before the networks compute


class Thresholds(NamedTuple):
  """When a prediction is flagged as probably none of the classes."""

  min_probability: float
  max_entropy: float


class Network(NamedTuple):
  """A loaded run or exported file, its distinct name, and how it takes files."""

  name: str
  run: Run | ExportedNetwork
  decoding: images.Decoding


def predict(
  workdirs: Sequence[str | os.PathLike],
  paths: Sequence[str | os.PathLike],
  as_json: bool = False,
  seed: int | None = None,
  picture: str | os.PathLike = "",
  min_probability: float = MIN_PROBABILITY,
  max_entropy: float = MAX_ENTROPY,
) -> tuple[str, int]:
  """Classify image files with one or several networks.

  Args:
    workdirs: the run folders, or what else `load_run` takes, or files of --mode=export; each is a
      column of the table.
    paths: image files, and folders to search for image files.
    as_json: return JSON instead of a table.
    seed: the seed whose weights to use, for runs of several; None for the first.
    picture: a PNG to write, with the photos and the networks' classes; '' for none.
    min_probability, max_entropy: the thresholds of the flag (see above).

  Returns:
    The text to print, and the exit code: 0 if every file was read, 1 if none was, 2 if some were
    skipped. The text gives the reason for each skipped file.

  Raises:
    UserError: a run folder cannot be used, `paths` is empty, a folder holds no image file, or the
      picture cannot be written.
  """
  files = images.find_files(paths)
  if picture and len(files) > prediction_picture.MAX_PHOTOS:
    raise errors.UserError(
      f"--picture: {len(files)} photos are too many for one picture; name at most "
      f"{prediction_picture.MAX_PHOTOS}"
    )
  if not workdirs:
    raise errors.UserError("workdir: missing; name the folder of a trained run")
  runs = [load_network(workdir, seed) for workdir in workdirs]
  names = run_record.distinct_names(
    [
      epath.Path(hub.parse(str(workdir))[0]) if hub.is_address(workdir) else run.path
      for workdir, run in zip(workdirs, runs, strict=True)
    ]
  )
  networks = [
    Network(name, run, images.choose_decoding(run)) for name, run in zip(names, runs, strict=True)
  ]
  thresholds = Thresholds(min_probability, max_entropy)

  rows: list[Row] = []
  skipped: list[dict[str, str]] = []
  with progress("predict", len(files), "images") as advance:
    for start in range(0, len(files), _CHUNK_SIZE):
      chunk = files[start : start + _CHUNK_SIZE]
      rows += _classify(chunk, networks, thresholds, skipped)
      advance(len(chunk))

  if picture and rows:
    _draw(rows, files, picture)
  code = (SOME_SKIPPED if rows else NONE_READ) if skipped else ALL_READ
  if as_json:
    return json.dumps(json_content(networks, rows, skipped, thresholds), indent=2), code
  return _format_text(names, rows, skipped, thresholds), code


def _draw(rows: list[Row], files: Sequence[pathlib.Path], picture: str | os.PathLike) -> None:
  """Write a picture of the files that were read."""
  by_name = {images.printable(file): file for file in files}
  photos = [images.read_photo(by_name[row["file"]], prediction_picture.MAX_PIXELS) for row in rows]
  prediction_picture.draw_predictions(rows, photos, _FLAG, picture)
  log.info("wrote %s", images.printable(picture))


def _classify(
  files: Sequence[pathlib.Path],
  networks: Sequence[Network],
  thresholds: Thresholds,
  skipped: list[dict[str, str]],
) -> list[Row]:
  """Return the predictions of all networks for each readable file; append others to `skipped`."""
  names: list[str] = []
  decoded: dict[images.Decoding, list[np.ndarray]] = {n.decoding: [] for n in networks}
  for file in files:
    name = images.printable(file)
    try:
      content = images.read_file(file)
      versions = [images.decode(content, *decoding) for decoding in decoded]
    except Exception as error:  # depending on the bytes, Pillow raises almost anything
      skipped.append({"file": name, "reason": images.describe_error(error)})
      continue
    names.append(name)
    for pixels, version in zip(decoded.values(), versions, strict=True):
      pixels.append(version)
  if not names:
    return []
  columns = []
  for network in networks:
    probabilities = network.run.predict(np.stack(decoded[network.decoding]))
    columns.append([describe_prediction(network, p, thresholds) for p in probabilities])
  return [
    {"file": name, "predictions": list(predictions)}
    for name, *predictions in zip(names, *columns, strict=True)
  ]


def describe_prediction(network: Network, probabilities: np.ndarray, limits: Thresholds) -> Row:
  """Return what the JSON says of one image and one network.

  probabilities: of all classes, [classes].
  """
  p = probabilities.astype(np.float64)
  ranking = np.argsort(-p, kind="stable")[:_NUM_RANKS]
  entropy = float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))) / np.log(len(p)))
  class_names = network.run.class_names
  ranked = [{"class": class_names[i], "probability": float(p[i])} for i in ranking]
  return {
    "run": network.name,
    **ranked[0],
    "top5": ranked,
    "normalized_entropy": entropy,
    "probably_none_of_the_classes": bool(
      p.max() < limits.min_probability or entropy > limits.max_entropy
    ),
  }


def json_content(
  networks: Sequence[Network], rows: list[Row], skipped: list[dict[str, str]], limits: Thresholds
) -> Row:
  """Return the content of the JSON that --mode=predict prints and --mode=serve answers."""
  runs = [
    {"name": name, "path": str(run.path), "seed": run.seed, "step": run.step}
    for name, run, _ in networks
  ]
  return {"runs": runs, "thresholds": limits._asdict(), "images": rows, "skipped": skipped}


def _format_text(
  names: Sequence[str], rows: list[Row], skipped: list[dict[str, str]], limits: Thresholds
) -> str:
  """Return a table with a line for each rank of each file, then a line for each skipped file."""
  lines = []
  if rows:
    header = ["file"]
    for name in names:
      header += [f"{errors.printable(name)}\nclass", "probability", "flag"]
    cells = [line for row in rows for line in _table_lines(row)]
    lines.append(format_table(header, cells, right=range(2, len(header), 3)))
    if any(p["probably_none_of_the_classes"] for row in rows for p in row["predictions"]):
      lines.append(
        f"{_FLAG} marks a probability below {limits.min_probability:.0%}, or an entropy above "
        f"{limits.max_entropy:.0%} of its maximum"
      )
  lines += [errors.printable(f"skipped {bad['file']}: {bad['reason']}") for bad in skipped]
  return "\n".join(lines)


def _table_lines(row: Row) -> list[list[str]]:
  """Return the cells of a file's lines, one line for each rank; the flag stands on the first."""
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
      line += [ranked["class"], f"{ranked['probability']:.2%}", _FLAG if flagged else ""]
    lines.append(line)
  return lines
