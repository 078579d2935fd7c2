"""Checks of data: decoded images, TFDS datasets and the archives that they are made from."""

import hashlib
import json
import os
import pathlib

from etils import epath

from cifar_jax import errors
from cifar_jax.data import array_record, cache, cifar, mnist
from trust.findings import Finding, Item, setting_aside

_CIFAR = {dataset.name: dataset for dataset in (cifar.CIFAR10, cifar.CIFAR100)}
_CHUNK_BYTES = 1 << 20
_REMADE = "; the next start creates the folder again"


def _published() -> dict[str, set[str]]:
  """Return the published SHA-256 of files by name; MNIST and Fashion-MNIST share names."""
  hashes: dict[str, set[str]] = {}
  for dataset in _CIFAR.values():
    hashes.setdefault(os.path.basename(dataset.url), set()).add(dataset.url_sha256)
    python = os.path.basename(dataset.url).replace("binary", "python")
    hashes.setdefault(python, set()).add(dataset.python.sha256)
    for name, sha256 in dataset.sha256.items():
      hashes.setdefault(name, set()).add(sha256)
  for images in (mnist.MNIST, mnist.FASHION_MNIST):
    for name, sha256 in images.gz_sha256.items():
      hashes.setdefault(f"{name}.gz", set()).add(sha256)
  return hashes


PUBLISHED = _published()


def is_decoded(files: list[str]) -> bool:
  """Return whether a folder with these files holds decoded images."""
  return "train_images.npy" in files or "train_images.json" in files


def is_tfds(files: list[str]) -> bool:
  """Return whether a folder with these files is a TFDS dataset in ArrayRecord."""
  return "features.json" in files and any(".array_record" in name for name in files)


def check_decoded(path: pathlib.Path) -> Item:
  """Compare decoded images and labels with the SHA-256 in their index.json."""
  findings, labels = [], ["label"]
  try:
    labels = list(json.loads((path / "index.json").read_text())["class_names"])
    for label in labels:
      cache.read(epath.Path(path), path.parent.name, label)
  except (cache.Unusable, OSError, ValueError, LookupError, TypeError) as error:
    problem = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}/")
    remedy = "delete the folder, and the next start decodes the images again"
    findings.append(Finding(str(path), f"damaged: {problem}", remedy, setting_aside(path, _REMADE)))
  return Item(str(path), "decoded images", f"images and {', '.join(labels)}", findings)


def check_tfds(path: pathlib.Path) -> Item:
  """Read every record of a TFDS dataset; compare CIFAR's with the hashes of the official files."""
  name, folder, findings = path.parent.name, epath.Path(path), []
  try:
    if name in _CIFAR:
      _CIFAR[name].verify(folder)
      checked = "every image and label, against the official files"
    else:
      checked = f"{_read_records(folder)} records, against ArrayRecord's checksums"
  except errors.UserError as error:
    checked = "every record"
    problem = str(error).removeprefix(f"{path}: ").partition("; delete")[0]
    remedy = "delete the folder, and --mode=prepare fetches the dataset again"
    findings.append(Finding(str(path), f"damaged: {problem}", remedy, setting_aside(path, _REMADE)))
  return Item(str(path), "dataset", checked, findings)


def check_archive(path: pathlib.Path) -> Item:
  """Compare a file of a known name with its published SHA-256."""
  findings = []
  try:
    actual = _sha256(path)
    if actual not in PUBLISHED[path.name]:
      expected = " or ".join(sorted(PUBLISHED[path.name]))
      problem = f"its SHA-256 is {actual}, not {expected}"
      findings.append(Finding(str(path), problem, "download the file again"))
  except OSError as error:
    problem = f"cannot be read ({error.strerror or error})"
    findings.append(Finding(str(path), problem, "copy or download the file again"))
  return Item(str(path), "archive", "SHA-256", findings)


def _read_records(folder: epath.Path) -> int:
  """Read all records of a TFDS dataset; raise UserError if one cannot be read."""
  count = 0
  with array_record.explain_damage(folder):
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    for split in splits:
      records = array_record.open_records(folder, split["name"])
      num_read = sum(1 for _ in array_record.iterate(records))
      expected = sum(map(int, split["shardLengths"]))
      if num_read != expected:
        raise ValueError(f"{split['name']} has {num_read} records instead of {expected}")
      count += num_read
  return count


def _sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()
