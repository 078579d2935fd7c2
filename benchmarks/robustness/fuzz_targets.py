"""What fuzz.py damages, and the functions that it gives the damaged files to."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import logging
import pathlib
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from etils import epath
from hypothesis import strategies as st
from PIL import Image

from analysis import images as analysis_images
from analysis.report import comparison, page, report
from analysis.run import load_run
from cifar_jax import errors
from cifar_jax.augment import chain
from cifar_jax.data import cache, fetch, image_folder, mnist
from cifar_jax.runs import checkpoints, run_folder
from cifar_jax.runtime.console import log
from configs import default
from models import pretrained
from tuning import trials


class Target(NamedTuple):
  """A kind of file.

  Attributes:
    name: of the kind.
    files: damaged ones.
    sound: whole ones.
    read: reads one; a UserError says that it is damaged, AssertionError that it was read wrongly.
  """

  name: str
  files: st.SearchStrategy
  sound: list[Any]
  read: Callable[[Any], object]


def make(folder: pathlib.Path) -> list[Target]:
  """All targets, which write below `folder`."""
  log.setLevel(logging.CRITICAL)  # of what is left out and why
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  return [
    *_images(folder / "images"),
    *_archives(folder / "archives"),
    _decoded(folder / "decoded"),
    *_runs(folder / "run"),
    *_checkpoints(folder / "checkpoints"),
    _weights(folder / "weights"),
    *_specs(folder),
  ]


# --- Damage --------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
  """One of some files with up to four pieces of it altered, or now and then something random."""
  content = bytearray(draw(st.sampled_from(contents)))
  if draw(st.integers(0, 19)) == 0:
    return draw(st.binary(max_size=200))
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw(st.sampled_from([1, 2, 4, 8, 64, 512]))
    kind = draw(st.sampled_from(["flip", "set", "cut", "end", "insert", "copy"]))
    if kind == "flip" and content:
      content[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
      content[at : at + length] = bytes([draw(st.sampled_from([0, 1, 127, 128, 255]))]) * length
    elif kind == "cut":
      del content[at : at + length]
    elif kind == "end":
      del content[at:]
    elif kind == "insert":
      content[at:at] = draw(st.binary(min_size=1, max_size=8))
    else:
      content[at:at] = content[draw(st.integers(0, at)) :][:length]
  return bytes(content)


_JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=8)
  | st.sampled_from([0, -1, 1, 2, 1e308, -(2**31), 2**63, 10**30, "", "test", "<b>", "../x"]),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
  ),
  max_leaves=4,
)


@st.composite
def damaged_json(draw: st.DrawFn, files: dict[str, list[bytes]]) -> tuple[str, bytes]:
  """One of some JSON files (a value a line) by name, with values replaced or left out."""
  name = draw(st.sampled_from(sorted(files)))
  content = draw(st.sampled_from(files[name]))
  if draw(st.booleans()):
    return name, draw(damaged([content]))
  values = [json.loads(line) for line in content.splitlines()] if name.endswith("l") else []
  value: Any = values or json.loads(content)
  for _ in range(draw(st.integers(1, 3))):
    place = value
    while True:
      keys = list(place) if isinstance(place, dict) else list(range(len(place)))
      if not keys:
        break
      key = draw(st.sampled_from(keys))
      if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
        place = place[key]
        continue
      if draw(st.integers(0, 3)):
        place[key] = draw(_JSON)
      else:
        del place[key]
      break
  if name.endswith("l"):
    return name, "".join(json.dumps(row) + "\n" for row in value).encode()
  return name, json.dumps(value).encode()


# --- Images and archives -------------------------------------------------------------------------


def _images(folder: pathlib.Path) -> list[Target]:
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (12, 10, 4), np.uint8)

  def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()

  colour, clear = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
  exif = colour.getexif()
  exif[0x0112] = 6
  contents = [
    encoded(colour, "PNG"),
    encoded(clear, "PNG"),
    encoded(colour.quantize(8), "PNG", transparency=1),
    encoded(colour, "JPEG", exif=exif),
    encoded(colour, "JPEG", progressive=True),
    encoded(colour, "GIF"),
    encoded(colour, "TIFF", compression="tiff_lzw"),
    encoded(colour, "WEBP"),
    encoded(colour, "BMP"),
    encoded(colour, "PPM"),
  ]
  for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(contents[0])
  work = folder.with_name("work")
  work.mkdir()

  def as_data_set(content: bytes) -> None:
    (folder / "a" / "2.png").write_bytes(content)
    found = image_folder.IMAGE_FOLDER.decode(
      epath.Path(folder), epath.Path(work), folder, size=8, test_fraction=0.5
    )
    assert all(image.shape[1:] == (8, 8, 3) for image in found.images.values())
    assert 4 <= sum(map(len, found.images.values())) <= 5

  def to_predict(content: bytes) -> None:
    try:
      image = analysis_images.decode(content, (8, 8, 3), "bilinear")
    except (MemoryError, RecursionError):
      raise
    except Exception as error:  # as predict does, which names the file and goes on
      raise errors.UserError(" ".join(str(error).split()) or type(error).__name__) from error
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8

  return [
    Target("image in a data set", damaged(contents), contents, as_data_set),
    Target("image to predict", damaged(contents), contents, to_predict),
  ]


def _archives(folder: pathlib.Path) -> list[Target]:
  """MNIST's four files with a few images, as every kind of archive."""
  folder.mkdir()
  few = {"train": 3, "test": 2}
  contents = {}
  for split, (pictures, labels) in mnist._FILES.items():
    n = few[split]
    pixels = np.arange(n * mnist.SIDE**2, dtype=np.uint8).tobytes()
    header = struct.pack(">4BIII", 0, 0, 8, 3, n, mnist.SIDE, mnist.SIDE)
    contents[pictures] = header + pixels
    contents[labels] = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(range(n))
  sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
  source = dataclasses.replace(mnist.MNIST, images=few, sha256=sha256)

  def tar(mode: str, zipped: bool = False, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
      for name, content in contents.items():
        content = gzip.compress(content, mtime=0) if zipped else content
        member = tarfile.TarInfo(f"{'ä' * 60}/{name}{'.gz' * zipped}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in contents.items():
      archive.writestr(name, content)
  archives = [tar("w"), tar("w", zipped=True), tar("w", form=tarfile.GNU_FORMAT)]
  archives += [tar("w:gz"), tar("w:bz2"), tar("w:xz"), buffer.getvalue()]
  file = epath.Path(folder / "archive")

  def read(content: bytes) -> None:
    file.write_bytes(content)
    found = source.decode(epath.Path(folder), epath.Path(folder), file)
    assert found.images["train"].tobytes() == contents["train-images-idx3-ubyte"][16:]

  def unzipped(content: bytes) -> None:  # damage inside, where a compressed archive's own sums end
    file.write_bytes(gzip.compress(content, 1))
    read_plain(file)

  def read_plain(path: epath.Path) -> None:
    try:
      fetch.read(path, {name: len(content) for name, content in contents.items()})
    except fetch.Failed as error:  # callers add the remedy
      raise errors.UserError(str(error)) from error

  return [
    Target("archive", damaged(archives), archives[:-1], read),
    Target("archive, damaged before gzip", damaged(archives[:3]), archives[:3], unzipped),
  ]


def _decoded(folder: pathlib.Path) -> Target:
  rng = np.random.default_rng(0)
  images = {split: rng.integers(0, 256, (3, 4, 4, 3), np.uint8) for split in cache.SPLITS}
  labels = {split: {"label": np.arange(3)} for split in cache.SPLITS}
  cache.write(epath.Path(folder), cache.Decoded(images, labels, {"label": ("a", "b", "c")}))
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  arrays = {name: content for name, content in files.items() if name.endswith(".npy")}
  index = {name: [content] for name, content in files.items() if name.endswith(".json")}
  chosen = st.sampled_from(sorted(arrays))
  some = chosen.flatmap(lambda name: st.tuples(st.just(name), damaged([arrays[name]])))

  def read(given: tuple[str, bytes]) -> None:
    with _replaced(folder / given[0], given[1]):
      try:
        found = cache.read(epath.Path(folder), "x", "label")
      except cache.Unusable as error:  # callers make it anew
        raise errors.UserError(" ".join(str(error).split())) from error
      assert np.array_equal(found.train.images, images["train"]) or given[0] == "index.json"

  return Target("decoded cache", some | damaged_json(index), list(files.items()), read)


# --- Run folders ---------------------------------------------------------------------------------


def _runs(folder: pathlib.Path) -> list[Target]:
  """A run folder of four epochs and two seeds, with an evaluation."""
  config = _write_run(folder)
  names = ["config.json", "dataset.json", "metrics.jsonl", "results.json"]
  of_run = {name: [(folder / name).read_bytes()] for name in names}
  names = [f"evaluation/{path.name}" for path in (folder / "evaluation").iterdir()]
  files = of_run | {name: [(folder / name).read_bytes()] for name in names}

  whole = [(name, content) for name, (content,) in of_run.items()]

  def with_file(read: Callable[[], object]) -> Callable[[tuple[str, bytes]], None]:
    def reads(given: tuple[str, bytes]) -> None:
      with _replaced(folder / given[0], given[1]):
        read()

    return reads

  def resume() -> None:
    at = run_folder.RunFolder(folder)
    at.raise_if_other_config(config, default.get_config())
    at.results()
    assert [row["epoch"] for row in at.metrics_until(4, 4)] == [1, 2, 3, 4]

  def chart(title: str, alt: str, draw: Callable[[Any], None]) -> page.Html:
    from matplotlib.figure import Figure

    draw(Figure().subplots())  # everything but the pixels
    return page.Html("")

  def reports() -> None:
    page.chart, chart_before = chart, page.chart
    try:
      report.report(folder)
      comparison.compare([folder, folder], folder / "comparison.html")
    finally:
      page.chart = chart_before

  def load() -> None:
    run = load_run(folder, None)
    run.results, run.metrics  # noqa: B018
    analysis_images.choose_decoding(run)
    run.normalize(np.zeros((1, *run.image_shape), np.uint8))

  return [
    Target("run folder, to resume", damaged_json(of_run), whole, with_file(resume)),
    Target("run folder, to report", damaged_json(files), whole, with_file(reports)),
    Target("run folder, to load", damaged_json(of_run), whole, with_file(load)),
  ]


def _write_run(folder: pathlib.Path) -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name, config.dtype, config.num_seeds, config.num_epochs = "lenet2", "float32", 2, 4
  config.select.monitor = "val_accuracy"
  written = run_folder.RunFolder(folder)
  written.write_config(config)
  classes = ["cat", "dog", "cow"]
  data = {"name": "cifar10", "requested": "cifar10", "fingerprint": "f" * 64}
  data |= {"class_names": classes, "image_shape": [32, 32, 3], "train_examples": 900}
  data |= {"validation_examples": 100, "test_examples": 200, "mean": [0.5] * 3, "std": [0.2] * 3}
  written.write_dataset(data)
  row = {"train_loss": 1.5, "train_accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.4}
  row |= {"learning_rate": 0.1}
  seeds = {"seeds": [{"seed": seed} | row for seed in range(2)]}
  more = {"images_per_second": 9.0, "seconds": 4.0}
  written.write_metrics([{"step": i, "epoch": i} | row | seeds | more for i in range(1, 5)])
  figures = {f"{split}_{name}": 0.4 for split in ("test", "val") for name in ("loss", "accuracy")}
  found = figures | {f"{name}_standard_error": 0.1 for name in figures}
  found |= {"per_seed": [{"seed": seed, "best_epoch": 2} | figures for seed in range(2)]}
  found |= {"selected_on": "validation", "seeds": [0, 1], "epochs_run": 4, "model": "lenet2"}
  found |= {"parameters": {"trainable": 5, "non_trainable": 0, "total": 5}, "data": data}
  found |= {"device": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1}}
  found["device"]["cpu_cores"] = 2
  found |= {"versions": {"jax": "0.10.2"}, "git_commit": "abc", "seconds_to_train": 36.0}
  written.write_results(found | {"compile_seconds": 7.5, "finished": "2026-01-02T03:04:05+00:00"})

  split = {"examples": 200, "loss": 0.7, "accuracy": 0.6, "top5": 1.0}
  bins = [{"low": 0.0, "high": 1.0, "count": 200, "confidence": 0.8, "accuracy": 0.6}]
  mistake = {"test_image": 17, "true": "dog", "predicted": "cat", "probability": 0.98}
  evaluation = {"seed": 0, "step": 4, "splits": {"train": split, "test": split}}
  evaluation |= {"calibration": {"ece": 0.07, "confidence": 0.8, "bins": bins}}
  evaluation |= {"test_time_augmentation": None, "mistakes": [mistake]}
  evaluation |= {"recorded": {"test_accuracy": {"value": 0.6, "difference": 0.0}}}
  figures = {"precision": 0.2, "recall": 0.5, "f1-score": 0.3, "support": 20.0}
  (folder / "evaluation").mkdir()
  for name, value in {
    "evaluation": evaluation | {"evaluated": "2026-01-03T00:00:00+00:00"},
    "confusion_matrix": {"class_names": classes, "counts": [[9, 1, 0], [1, 9, 1], [0, 2, 9]]},
    "classification_report": {c: figures for c in [*classes, "macro avg"]} | {"accuracy": 0.6},
  }.items():
    (folder / "evaluation" / f"{name}.json").write_text(json.dumps(value))
  store = checkpoints.Checkpoints(folder)
  store.save_best(2, {"params": {"w": np.ones((2, 3), np.float32)}})
  store.close()
  return config


def _checkpoints(folder: pathlib.Path) -> list[Target]:
  """Every file of a checkpoint, Orbax's own included."""
  rng = np.random.default_rng(0)
  tree = {"params": {"kernel": rng.normal(size=(30, 20)).astype(np.float32), "bias": np.zeros(20)}}
  store = checkpoints.Checkpoints(folder)
  store.save_best(1, tree)
  store.close()
  best = folder / "checkpoints" / "best" / "00000001"
  contents = {path: path.read_bytes() for path in sorted(best.rglob("*")) if path.is_file()}
  chosen = st.sampled_from(sorted(contents))
  some = chosen.flatmap(lambda path: st.tuples(st.just(path), damaged([contents[path]])))

  def read(given: tuple[pathlib.Path, bytes]) -> None:
    with _replaced(*given):
      _, found = checkpoints.read_best(folder)
      for name, array in tree["params"].items():
        np.testing.assert_array_equal(found["params"][name], array)

  return [Target("checkpoint", some, list(contents.items()), read)]


def _weights(folder: pathlib.Path) -> Target:
  """VGG-16's weights in the forms that are read, with too few layers: each is refused."""
  import h5py
  from safetensors.numpy import save

  folder.mkdir()
  array = np.zeros((2, 2, 3, 3), np.float32)
  with h5py.File(folder / "x.h5", "w") as file:
    file["block1_conv1/kernel"], file["block1_conv1/bias"] = array, np.zeros(2)
  contents = {
    "x.h5": (folder / "x.h5").read_bytes(),
    "x.safetensors": save({"features.0.weight": array, "features.0.bias": np.zeros(2)}),
  }
  (folder / "x.safetensors").write_bytes(contents["x.safetensors"])
  chosen = st.sampled_from(sorted(contents))

  def read(given: tuple[str, bytes]) -> None:
    with _replaced(folder / given[0], given[1]):
      pretrained.load_vgg16(folder / given[0])
      raise AssertionError("no such weights were written")

  some = chosen.flatmap(lambda name: st.tuples(st.just(name), damaged([contents[name]])))
  return Target("pretrained weights", some, [], read)


# --- What is typed -------------------------------------------------------------------------------


def _specs(folder: pathlib.Path) -> list[Target]:
  sweeps = [
    "optimizer.learning_rate=0.1,0.01 seed=0,1",
    "model.name=resnet18,'lenet2' data.validation=0.1,0.2 at_once=2 rank_by=val_loss",
    "loss.l2=(('kernel$', 1e-4),),() model.widths=(16,16),(32,32)",
  ]
  chains = [
    "random_crop(padding=4) | random_flip() | cutout(size=8)",
    "random_rotation(factor=0.1) | mixup(alpha=1.0)",
    "random_affine(rotation=0.1, zoom=0.2)",
  ]

  def text(examples: list[str]) -> st.SearchStrategy[str]:
    words = st.lists(st.sampled_from([*"()[]{}'\",=|.-+*0179e \\\n", *examples]), max_size=12)
    encoded = damaged([example.encode() for example in examples])
    return words.map("".join) | encoded.map(lambda content: content.decode("utf-8", "replace"))

  def sweep(given: str) -> None:
    if ".py" not in given:  # which would be run
      trials.expand(trials.parse(given), default.get_config(), epath.Path(folder / "s"))

  return [
    Target("sweep", text(sweeps), sweeps, sweep),
    Target("augmentation", text(chains), chains, chain.parse),
  ]


@contextlib.contextmanager
def _replaced(path: pathlib.Path, content: bytes) -> Iterator[None]:
  before = path.read_bytes()
  path.write_bytes(content)
  try:
    yield
  finally:
    path.write_bytes(before)
