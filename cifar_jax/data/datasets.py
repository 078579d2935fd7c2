"""Datasets by name: fetch, verify and decode once; memory-map on every later start.

To add a dataset, write a module in this package with a function that returns a `cache.Decoded`, and
add a line to `REGISTRY`.

Each dataset has a folder in the data directory, which by default is TFDS's (the environment
variable TFDS_DATA_DIR, or ~/tensorflow_datasets):

  <version>/          the TFDS dataset in ArrayRecord, if TFDS has this dataset
  decoded-<version>/  the decoded arrays (see cache.py)
  preparing/          unfinished work; the next preparation continues its downloads (*.part), which
                      are checked when they are complete, and deletes the rest
  prepare.lock        held while preparing

A dataset that has options, or that is read from the user's files, has one
`decoded-<version>-<16 hex digits>/` for each combination of files and options. Any folder may be
deleted: the next load that needs it creates it again.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from cifar_jax import errors, registry
from cifar_jax.data import cache, cifar, digits, image_folder, mnist
from cifar_jax.data.cache import Dataset, Split
from cifar_jax.data.fetch import Unavailable
from cifar_jax.runs import locks
from cifar_jax.runtime.console import log

__all__ = [
  "REGISTRY",
  "Dataset",
  "Entry",
  "Form",
  "Split",
  "Unavailable",
  "find_data_dir",
  "find_form",
  "list_names",
  "load",
  "prepare",
]


class Form(NamedTuple):
  """The shape of a dataset's images, in pixels, and the number of its classes."""

  height: int
  width: int
  channels: int
  num_classes: int


class Entry(NamedTuple):
  """One name in the registry.

  Attributes:
    folder: the dataset's folder in the data directory; names that differ only in their labels
      share a folder.
    version: the version of the data.
    label: the kind of label that the name selects.
    decode: called with (the dataset's folder, an empty work folder, the source or None). Its
      further arguments have defaults and are the dataset's options. JSON files that `decode` leaves
      in the work folder are kept next to the decoded arrays; the lines of cache.WARNINGS are logged
      at every start.
    form: the form of the examples, or None if only the data determines it; a height and width of 0
      stand for the option `size`.
    fingerprint: for datasets made from the user's files. Called with (the dataset's folder, the
      source or None); the result changes whenever those files change.
  """

  folder: str
  version: str
  label: str
  decode: Callable[..., cache.Decoded]
  form: Form | None
  fingerprint: Callable[[epath.Path, epath.PathLike | None], str] = lambda home, source: ""


REGISTRY = {
  "cifar10": Entry("cifar10", "3.0.2", "label", cifar.CIFAR10.decode, Form(32, 32, 3, 10)),
  "cifar100": Entry("cifar100", "3.0.2", "label", cifar.CIFAR100.decode, Form(32, 32, 3, 100)),
  "cifar100_coarse": Entry(
    "cifar100", "3.0.2", "coarse_label", cifar.CIFAR100.decode, Form(32, 32, 3, 20)
  ),
  "digits": Entry("digits", "1.0.0", "label", digits.decode, Form(32, 32, 3, 10)),
  "mnist": Entry("mnist", "3.0.1", "label", mnist.MNIST.decode, Form(28, 28, 1, 10)),
  "fashion_mnist": Entry(
    "fashion_mnist", "3.0.1", "label", mnist.FASHION_MNIST.decode, Form(28, 28, 1, 10)
  ),
  "image_folder": Entry(
    "image_folder",
    "1.0.0",
    "label",
    image_folder.IMAGE_FOLDER.decode,
    None,
    image_folder.IMAGE_FOLDER.fingerprint,
  ),
  "cats_vs_dogs": Entry(
    "cats_vs_dogs",
    "4.0.1",
    "label",
    image_folder.CATS_VS_DOGS.decode,
    Form(0, 0, 3, 2),
    image_folder.CATS_VS_DOGS.fingerprint,
  ),
}


def list_names() -> tuple[str, ...]:
  """Return the names that `load` accepts."""
  return tuple(REGISTRY)


def find_form(name: str, options: Mapping[str, Any] | None = None) -> Form | None:
  """Return the form of a dataset's examples without reading data, or None if that is impossible.

  Arguments and errors are those of `load`.
  """
  entry = _look_up(name)
  if entry.form is None or entry.form.height:
    return entry.form
  size = _resolve_options(name, entry, options or {})["size"]
  return entry.form._replace(height=size, width=size)


def load(
  name: str,
  data_dir: epath.PathLike | None = None,
  source: epath.PathLike | None = None,
  options: Mapping[str, Any] | None = None,
) -> Dataset:
  """Load a dataset; prepare it first if necessary.

  Args:
    name: one of `list_names()`.
    data_dir: a local folder; None for TFDS's (see the module's docstring).
    source: a folder or archive with the dataset's files, used if nothing is prepared yet; None
      tries the official URL, then the dataset's other sources.
    options: options of this dataset, such as the `size` of photos. An option that is missing or
      None has its default.

  Raises:
    errors.UserError: the name, an option, the source or the data directory is invalid, or the TFDS
      files are damaged.
    Unavailable: nothing is prepared, `source` is None, and no other source is available.
  """
  entry, _, cache_folder = _locate(name, data_dir, source, options)
  try:
    return cache.read(cache_folder, name, entry.label)
  except cache.Unusable:
    return prepare(name, data_dir, source, options)


def prepare(
  name: str,
  data_dir: epath.PathLike | None = None,
  source: epath.PathLike | None = None,
  options: Mapping[str, Any] | None = None,
) -> Dataset:
  """Fetch, prepare and decode whatever is missing, showing progress, then load the dataset.

  Any number of processes may call `prepare` at once: one works and the others wait. A killed
  process leaves no file that a later process would trust. Arguments and errors are those of `load`.
  """
  entry, home, cache_folder = _locate(name, data_dir, source, options)
  try:
    home.mkdir(parents=True, exist_ok=True)
    lock = home / "prepare.lock"
    waiting = "another process is preparing %s; waiting for it (%s)"
    with locks.hold_lock(lock, lambda: log.info(waiting, name, lock)):
      try:
        return cache.read(cache_folder, name, entry.label)
      except cache.Unusable as reason:
        log.info("%s; preparing %s", reason, name)
      with _work_folder(home / "preparing") as work:
        cache.write(work / "decoded", entry.decode(home, work, source))
        for note in work.glob("*.json"):
          os.replace(note, work / "decoded" / note.name)
        cache.publish(work / "decoded", cache_folder)
      return cache.read(cache_folder, name, entry.label)
  except OSError as error:
    raise errors.UserError(
      f"data.dir: cannot prepare {name} in {home} ({error}); free disk space or fix the folder's "
      "permissions, or set --config.data.dir to another folder"
    ) from error


def _look_up(name: str) -> Entry:
  """Return the registry's entry; raise UserError if the name is unknown."""
  if name not in REGISTRY:
    raise registry.unknown("data.name", "dataset", name, REGISTRY)
  return REGISTRY[name]


def find_data_dir(data_dir: epath.PathLike | None = None) -> epath.Path:
  """Return the data directory: the given one, or for None TFDS's (see the module's docstring).

  Raises:
    errors.UserError: it is not a local folder.
  """
  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  data_dir = os.fspath(data_dir)
  if "://" in data_dir:
    raise errors.UserError(f"data.dir: {data_dir} is not a local folder; name a local folder")
  return epath.Path(data_dir).expanduser().resolve()


def _locate(
  name: str,
  data_dir: epath.PathLike | None,
  source: epath.PathLike | None,
  options: Mapping[str, Any] | None,
) -> tuple[Entry, epath.Path, epath.Path]:
  """Find a dataset's place in the data directory. Arguments and errors are those of `load`.

  Returns:
    The entry, with the options bound to its `decode`; the dataset's folder; the folder of the
    decoded arrays.
  """
  entry = _look_up(name)
  home = find_data_dir(data_dir) / entry.folder
  resolved_options = _resolve_options(name, entry, options or {})
  cache_name = f"decoded-{entry.version}"
  recipe = (entry.fingerprint(home, source), resolved_options)
  if any(recipe):
    text = json.dumps(recipe, sort_keys=True, default=repr)
    cache_name += f"-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
  decode = functools.partial(entry.decode, **resolved_options)
  return entry._replace(decode=decode), home, home / cache_name


def _resolve_options(name: str, entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
  """Return all options of a dataset: the defaults, updated with `options`.

  Raises:
    errors.UserError: the dataset has no such option.
  """
  parameters = inspect.signature(entry.decode).parameters.values()
  resolved = {p.name: p.default for p in parameters if p.default is not p.empty}
  for option, value in options.items():
    if option not in resolved:
      raise errors.UserError(
        f"data.options.{option}: {name!r} takes no such option; "
        f"it takes: {', '.join(resolved) or 'none'}"
      )
    if value is not None:
      resolved[option] = value
  return resolved


@contextlib.contextmanager
def _work_folder(path: epath.Path) -> Iterator[epath.Path]:
  """Provide a work folder for the block, and delete it afterwards.

  At first the folder holds at most unfinished downloads. These are kept if the block fails or is
  killed.
  """
  _delete_all_but_downloads(path)
  path.mkdir(exist_ok=True)
  try:
    yield path
  except BaseException:
    _delete_all_but_downloads(path)
    raise
  path.rmtree()


def _delete_all_but_downloads(path: epath.Path) -> None:
  """Delete a folder if it exists, except for unfinished downloads in it."""
  if not path.exists():
    return
  for entry in path.iterdir():
    if entry.is_dir():
      entry.rmtree()
    elif entry.suffix != ".part":
      entry.unlink()
  if not any(path.iterdir()):
    path.rmdir()
