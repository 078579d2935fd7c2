"""Classify image files: `--mode=predict`.

A network knows only its classes, and assigns one of them to any image. A prediction is flagged as
probably none of the classes if its probability is below MIN_PROBABILITY, or if the entropy of all
probabilities exceeds the fraction MAX_ENTROPY of its maximum, the entropy of equal probabilities.
The flag is only a hint; docs/measurements.md says how often it is right.
"""

import collections
import contextlib
import functools
import itertools
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
from etils import epath

from analysis import images, prediction_formats, prediction_picture, run_record
from analysis.exported import ExportedNetwork, load_network
from analysis.files import prepare_output, writing
from analysis.prediction_formats import FLAG, MAX_TABLE_IMAGES, NUM_RANKS, Heading, Thresholds
from analysis.run import Run, call_size
from cifar_jax import errors
from cifar_jax.runs import hub
from cifar_jax.runtime.console import log, progress
from cifar_jax.types import Row

MIN_PROBABILITY = 0.4
MAX_ENTROPY = 0.7  # 1 is the entropy of equal probabilities
ALL_READ, NONE_READ, SOME_SKIPPED = 0, 1, 2  # exit codes
_MAX_THREADS = 8  # for decoding; each may hold a large photo


class Network(NamedTuple):
  """A loaded run or exported file, its distinct name, and how to decode files for it."""

  name: str
  run: Run | ExportedNetwork
  decoding: images.Decoding


def predict(
  workdirs: Sequence[str | os.PathLike],
  paths: Sequence[str | os.PathLike],
  as_json: bool = False,
  seed: int | None = None,
  picture: str | os.PathLike = "",
  output: str | os.PathLike = "",
  min_probability: float = MIN_PROBABILITY,
  max_entropy: float = MAX_ENTROPY,
) -> int:
  """Classify image files with one or several networks; print the results, or write them.

  Files are decoded, and results printed or written, one window of files at a time, so that memory
  does not grow with the number of files.

  Args:
    workdirs: run folders, anything else that `load_run` accepts, or files of --mode=export; each is
      a column of the table.
    paths: image files, and folders to search for image files.
    as_json: print JSON instead of a table.
    seed: the seed whose weights to use, for runs with several seeds; None for the first.
    picture: a PNG to write, with the photos and the networks' classes; '' for none.
    output: a file to write instead of printing; its ending, one of prediction_formats.ENDINGS,
      chooses the format; '' for none.
    min_probability, max_entropy: the thresholds of the flag (see above).

  Returns:
    The exit code: 0 if every file was read, 1 if none was, 2 if some were skipped.

  Raises:
    UserError: a run folder cannot be used, `paths` is empty, a folder holds no image file, or the
      picture or `output` cannot be written.
  """
  if output and as_json:
    raise errors.UserError("--json: excludes --output; use --output=FILE.json alone")
  target = prepare_output(output, prediction_formats.ENDINGS) if output else None
  files = images.find_files(paths)
  if picture and len(files) > prediction_picture.MAX_PHOTOS:
    raise errors.UserError(
      f"--picture: {len(files)} photos are too many for one picture; name at most "
      f"{prediction_picture.MAX_PHOTOS}"
    )
  networks = _load_networks(workdirs, seed)
  heading = Heading(describe_networks(networks), Thresholds(min_probability, max_entropy))
  ending = target.suffix if target else ".json" if as_json else ".txt"
  pieces_of = prediction_formats.choose_format(ending, len(files))

  rows: list[Row] = []  # of the photos in the picture
  counts: collections.Counter[bool] = collections.Counter()

  def classify() -> Iterator[Row]:
    is_printed_meanwhile = target is None and (as_json or len(files) > MAX_TABLE_IMAGES)
    for result in _classify(files, networks, heading.thresholds, not is_printed_meanwhile):
      is_read = "reason" not in result
      counts[is_read] += 1
      if picture and is_read:
        rows.append(result)
      yield result

  pieces = pieces_of(heading, classify())
  if target:
    with writing(target) as file:
      for piece in pieces:
        file.write(piece.encode("utf-8", "backslashreplace"))
    skipped = f", {counts[False]:,} skipped" if counts[False] else ""
    print(f"wrote {errors.printable(target)}: {counts[True]:,} images{skipped}")
  else:
    for piece in pieces:
      print(piece, end="", flush=True)
  if rows:
    _draw(rows, files, picture)
  return (SOME_SKIPPED if counts[True] else NONE_READ) if counts[False] else ALL_READ


def _load_networks(workdirs: Sequence[str | os.PathLike], seed: int | None) -> list[Network]:
  if not workdirs:
    raise errors.UserError("workdir: missing; name the folder of a trained run")
  runs = [load_network(workdir, seed) for workdir in workdirs]
  names = run_record.distinct_names(
    [
      epath.Path(hub.parse(str(workdir))[0]) if hub.is_address(workdir) else run.path
      for workdir, run in zip(workdirs, runs, strict=True)
    ]
  )
  return [
    Network(name, run, images.choose_decoding(run)) for name, run in zip(names, runs, strict=True)
  ]


def _draw(rows: list[Row], files: Sequence[pathlib.Path], picture: str | os.PathLike) -> None:
  """Write a picture of the files that were read."""
  by_name = {images.printable(file): file for file in files}
  photos = [images.read_photo(by_name[row["file"]], prediction_picture.MAX_PIXELS) for row in rows]
  prediction_picture.draw_predictions(rows, photos, FLAG, picture)
  log.info("wrote %s", images.printable(picture))


# --- Files, a window at a time -------------------------------------------------------------------


class _Decoded(NamedTuple):
  """A file, and its pixels for each decoding, or the reason why it is skipped."""

  name: str
  versions: list[np.ndarray]
  reason: str = ""


def _classify(
  files: Sequence[pathlib.Path],
  networks: Sequence[Network],
  thresholds: Thresholds,
  shows_progress: bool,
) -> Iterator[Row]:
  """Yield for each file in turn the predictions of all networks, or why it is skipped.

  shows_progress: False to hide the progress bar in a terminal, where results are printed meanwhile.
  """
  decodings = list(dict.fromkeys(network.decoding for network in networks))
  is_hidden = not shows_progress and sys.stdout.isatty()
  bar = progress("predict", len(files), "images")
  with contextlib.nullcontext(lambda n: None) if is_hidden else bar as advance:
    decoded = _read_ahead(functools.partial(_decode, decodings), files)
    with contextlib.closing(decoded):
      while window := list(itertools.islice(decoded, call_size())):
        yield from _classify_window(window, decodings, networks, thresholds)
        advance(len(window))


def _classify_window(
  window: Sequence[_Decoded],
  decodings: Sequence[images.Decoding],
  networks: Sequence[Network],
  thresholds: Thresholds,
) -> Iterator[Row]:
  readable = [file for file in window if not file.reason]
  columns = []
  for network in networks if readable else ():
    version = decodings.index(network.decoding)
    probabilities = network.run.predict(np.stack([file.versions[version] for file in readable]))
    columns.append([describe_prediction(network, p, thresholds) for p in probabilities])
  predictions = zip(*columns, strict=True)
  for file in window:
    if file.reason:
      yield {"file": file.name, "reason": file.reason}
    else:
      yield {"file": file.name, "predictions": list(next(predictions))}


def _decode(decodings: Sequence[images.Decoding], file: pathlib.Path) -> _Decoded:
  name = images.printable(file)
  try:
    content = images.read_file(file)
    return _Decoded(name, [images.decode(content, *decoding) for decoding in decodings])
  except Exception as error:  # depending on the bytes, Pillow raises almost anything
    return _Decoded(name, [], images.describe_error(error))


def _read_ahead(
  decode: Callable[[pathlib.Path], _Decoded], files: Iterable[pathlib.Path]
) -> Generator[_Decoded, None, None]:
  """Yield the decoded files in order; threads decode a few files ahead.

  Grain could do this, but takes a second to import.
  """
  num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
  waiting: collections.deque[futures.Future[_Decoded]] = collections.deque()
  with warnings.catch_warnings(), futures.ThreadPoolExecutor(num_threads, "decode") as pool:
    # Decoding ignores warnings too, but threads undo each other's filters.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
      for file in files:
        waiting.append(pool.submit(decode, file))
        if len(waiting) > 4 * num_threads:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)


def describe_prediction(network: Network, probabilities: np.ndarray, limits: Thresholds) -> Row:
  """Return the JSON entry for one image and one network.

  probabilities: of all classes, [classes].
  """
  p = probabilities.astype(np.float64)
  ranking = np.argsort(-p, kind="stable")[:NUM_RANKS]
  entropy = float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))) / np.log(len(p)))
  class_names = network.run.class_names
  ranked = [{"class": class_names[i], "probability": float(p[i])} for i in ranking]
  return {
    "run": network.name,
    **ranked[0],
    "top5": ranked,
    "normalized_entropy": entropy,
    "probably_none_of_the_classes": bool(
      np.max(p) < limits.min_probability or entropy > limits.max_entropy
    ),
  }


def describe_networks(networks: Sequence[Network]) -> list[Row]:
  """Return the JSON entries for the networks."""
  return [
    {"name": name, "path": str(run.path), "seed": run.seed, "step": run.step}
    for name, run, _ in networks
  ]
