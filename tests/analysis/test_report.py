"""Pages about runs: made from folders that are written here, and read back as a browser would."""

import base64
import hashlib
import html.parser
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import small_runs
from PIL import Image

from analysis.report import page, report
from cifar_jax import errors
from configs import default

EVIL = "<script>alert(1)<!--&\"' run"
CLASSES = ["cat", "<script>&\"'</table>", *(f"class {i}" for i in range(6))]
FIGURES = ("test_accuracy", "test_loss", "test_top5", "val_accuracy", "val_loss", "val_top5")


def write(
  path: pathlib.Path, values: list[float], finished: bool = True, epochs: int = 3, **fields: object
) -> pathlib.Path:
  """A run folder; `values` are the test accuracies of its seeds."""
  config = default.get_config()
  changes = {"num_seeds": len(values), "num_epochs": epochs, "dtype": "float32"}
  for name, value in (changes | {n.replace("__", "."): v for n, v in fields.items()}).items():
    *parents, leaf = name.split(".")
    section = config
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  seeds = list(range(config.seed, config.seed + len(values)))
  data = {"name": "cifar10", "requested": "cifar10", "fingerprint": "f" * 64}
  data |= {"class_names": CLASSES, "image_shape": [32, 32, 3], "train_examples": 900}
  data |= {"validation_examples": 100, "test_examples": 200}
  rows = []
  for epoch in range(1, epochs + finished):
    row = {"step": 7 * epoch, "epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 0.5}
    row |= {"val_loss": 2 / epoch, "val_accuracy": 0.4, "learning_rate": 0.1 / epoch}
    if len(values) > 1:
      row["seeds"] = [{"seed": seed} | row for seed in seeds]
    rows.append(row | {"images_per_second": 123.0, "seconds": 4.0})
  rows[0]["val_loss"] = None  # as JSON has what is not a number
  path.mkdir(parents=True)
  as_json = json.dumps(config.to_dict())
  (path / "config.json").write_text(as_json)
  (path / "dataset.json").write_text(json.dumps(data))
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if not finished:
    return path
  per_seed = [
    {"seed": seed, "best_epoch": 2} | {name: value + i / 100 for i, name in enumerate(FIGURES)}
    for seed, value in zip(seeds, values, strict=True)
  ]
  found = {name: np.mean([own[name] for own in per_seed]) for name in FIGURES}
  if len(values) > 1:
    found |= {f"{n}_standard_error": scipy.stats.sem([own[n] for own in per_seed]) for n in FIGURES}
    found["per_seed"] = per_seed
  else:
    found["best_epoch"] = 2
  on = "test" if config.data.validation == "test" else "validation"
  found |= {"selected_on": on, "seeds": seeds, "epochs_run": epochs, "model": "resnet18"}
  found |= {"parameters": {"trainable": 12345, "non_trainable": 55, "total": 12400}, "data": data}
  found["device"] = {"platform": "cpu", "kind": "cpu <1>", "count": 1, "processes": 1}
  found["device"]["cpu_cores"] = 2
  found |= {"versions": {"python": "3.11", "jax": "0.10.2"}, "git_commit": "abcdef" * 7}
  found |= {"finished": "2026-01-02T03:04:05+00:00", "seconds_to_train": 3661.0}
  (path / "results.json").write_text(json.dumps(found | {"compile_seconds": 7.25}))
  return path


def evaluate(path: pathlib.Path, evaluated: str = "2026-01-03T00:00:00+00:00") -> np.ndarray:
  """The files of `--mode=evaluate` that the page reads; returns the confusion matrix."""
  folder = path / "evaluation"
  folder.mkdir()
  counts = np.random.RandomState(0).randint(1, 30, (len(CLASSES), len(CLASSES)))
  split = {"examples": int(counts.sum()), "loss": 0.7654, "accuracy": 0.6111, "top5": 0.9333}
  bins = [{"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None}]
  bins.append({"low": 0.5, "high": 1.0, "count": 200, "confidence": 0.8, "accuracy": 0.6})
  mistake = {"test_image": 17, "true": CLASSES[1], "predicted": "cat", "probability": 0.98765}
  tta = {"kind": "flip", "views": 2, **split, "accuracy": 0.6222}
  tta["gain"] = {"loss": 0.0, "accuracy": 0.0111, "top5": 0.0}
  recorded = {"test_accuracy": {"value": 0.6111, "difference": 0.0}}
  evaluation = {"seed": 0, "step": 14, "splits": {"train": split, "test": split}}
  evaluation |= {"calibration": {"ece": 0.0777, "confidence": 0.8, "bins": bins}}
  evaluation |= {"test_time_augmentation": tta, "recorded": recorded, "mistakes": [mistake]}
  files = {
    "evaluation": evaluation | {"evaluated": evaluated},
    "confusion_matrix": {"class_names": CLASSES, "counts": counts.tolist()},
    "classification_report": {
      name: {"precision": 0.25, "recall": i / 7, "f1-score": 0.5, "support": 20.0}
      for i, name in enumerate([*CLASSES, "macro avg", "weighted avg"])
    }
    | {"accuracy": 0.6111},
  }
  for name, value in files.items():
    (folder / f"{name}.json").write_text(json.dumps(value))
  Image.new("RGB", (40, 30), (1, 2, 3)).save(folder / "mistakes.png")
  return counts


class Page(html.parser.HTMLParser):
  """What a browser makes of a page.

  Attributes:
    tags: (name, attributes) of every element.
    text: all that is shown, without what is in style and script elements.
    rows: the texts of the fields of every table's rows, tables one after the other.
  """

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.text = ""
    self.rows: list[list[str]] = []
    self._inside: list[str] = []
    self.source = path.read_text("utf-8")
    self.feed(self.source)
    self.close()
    assert not self._inside

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in ("br", "img", "link", "meta", "source", "wbr"):
      self._inside.append(tag)
    if tag == "tr":
      self.rows.append([])
    elif tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_endtag(self, tag):
    assert self._inside.pop() == tag

  def handle_data(self, data):
    if self._inside and self._inside[-1] in ("style", "script"):
      return
    self.text += data
    if "td" in self._inside or "th" in self._inside:
      self.rows[-1][-1] += data

  def row(self, first: str) -> list[str]:
    (found,) = (row for row in self.rows if row and row[0].strip() == first)
    return [field.strip() for field in found]

  def references(self) -> list[str]:
    names = ("src", "srcset", "href", "action", "data", "poster", "background", "xlink:href")
    return [value for _, own in self.tags for name, value in own.items() if name in names]


@pytest.fixture
def evaluated(tmp_path):
  path = write(tmp_path / "run", [0.7309])
  evaluate(path)
  return path


def test_names_are_escaped(tmp_path):
  attack = "</script><img src=x onerror=alert(1)>"
  path = write(tmp_path / EVIL, [0.5], data__source=attack)
  evaluate(path)
  other = write(tmp_path / "other", [0.5])
  pages = [Page(report.report(path)), Page(report.compare([path, other], tmp_path / "all.html"))]
  for found in pages:
    assert [name for name, _ in found.tags].count("script") == 1  # the page's own
    assert not any(key.startswith("on") for _, own in found.tags for key in own)
    assert "x" not in found.references()
    assert EVIL in found.text and attack in found.text
  assert CLASSES[1] in pages[0].text


def test_pages_need_no_network(evaluated, tmp_path):
  for made in (report.report(evaluated), report.compare([evaluated], tmp_path / "all.html")):
    found = Page(made)
    outside = [r for r in found.references() if not r.startswith(("data:image/png;base64,", "#"))]
    assert outside == ([] if made.name == "report.html" else ["run/report.html"])
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]*", "", found.source))
    (policy,) = (own["content"] for _, own in found.tags if "http-equiv" in own)
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", found.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'")
  assert not list(tmp_path.glob("**/.*.tmp"))


def test_charts_are_drawn_for_light_and_dark_pages(evaluated):
  found = Page(report.report(evaluated))
  images = [own["src"] for name, own in found.tags if name == "img"]
  dark = [own["srcset"] for name, own in found.tags if name == "source"]
  assert all(own["alt"] for name, own in found.tags if name == "img")
  mistakes = images.pop(3)  # after loss, accuracy and learning rate, before the calibration
  assert decode(mistakes).size == (40, 30)
  assert len(images) == len(dark) == 5
  for pair in zip(images, dark, strict=True):
    ink = []
    for uri in pair:
      pixels = np.asarray(decode(uri).convert("RGBA"), int)
      assert pixels[..., 3].min() == 0  # the page shows through
      opaque = pixels[pixels[..., 3] == 255][:, :3]
      ink.append(opaque[np.ptp(opaque, axis=1) < 20].mean())  # what has no colour: text
    assert ink[0] < 120 < ink[1]


def decode(uri: str) -> Image.Image:
  return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_figures_are_those_of_the_run(evaluated):
  found = Page(report.report(evaluated))
  for shown in (
    *("Test accuracy73.09%", "Test loss0.7409", "Test top-575.09%", "Validation accuracy76.09%"),
    *("12,400", "1 h 01 min", "7.2 s", "900 train, 100 validation, 200 test"),
    "the epoch in which val_accuracy was highest: epoch 2 of 3",
    *("validation images", "1 × cpu <1>", "jax 0.10.2", "f" * 64, "abcdef" * 7),
    "2026-01-02 03:04 UTC",
  ):
    assert shown in found.text, shown
  assert "optimistic" not in found.text and "nfinished" not in found.text
  assert found.row("1") == ["1", "1.0000", "–", "50.00%", "40.00%", "0.1", "123", "4.0"]
  assert found.row("optimizer.name") == ["optimizer.name", '"sgd"']
  assert [row for row in found.rows if row[0] == "num_epochs"] == [
    ["num_epochs", "3", "10"],  # what differs from the defaults
    ["num_epochs", "3"],  # all fields
  ]


def test_evaluation_is_shown(tmp_path):
  path = write(tmp_path / "run", [0.7309])
  counts = evaluate(path)
  found = Page(report.report(path))
  assert found.row("train") == ["train", f"{counts.sum():,}", "61.11%", "93.33%", "0.7654"]
  assert found.row("test, flip")[2] == "62.22%"
  assert "+1.11 points" in found.text and "that in results.json" in found.text
  matrix = [row for row in found.rows if len(row) == 1 + len(CLASSES)]
  matrix = [row for row in matrix if row[0] in CLASSES]
  assert [row[0] for row in matrix] == CLASSES
  np.testing.assert_array_equal([list(map(int, row[1:])) for row in matrix], counts)
  most = found.rows[[row[:2] for row in found.rows].index(["true", "predicted"]) + 1]
  true, predicted = CLASSES.index(most[0]), CLASSES.index(most[1])
  assert int(most[2]) == counts[true, predicted] == (counts - np.diag(np.diag(counts))).max()
  assert ["class 0", "25.00%", "28.57%", "50.00%", "20"] in found.rows
  assert ["cat", "98.77%", CLASSES[1], "17"] in found.rows
  assert "7.77% (2 bins)" in found.text and "--mode=evaluate" not in found.text


def test_what_is_missing_is_told_with_the_command_that_makes_it(tmp_path):
  path = write(tmp_path / "a run", [0.5])
  found = Page(report.report(path))
  assert f"python main.py --mode=evaluate --workdir='{path}'" in found.text
  assert "Calibration" not in found.text
  evaluate(path, evaluated="2026-01-01T00:00:00+00:00")
  found = Page(report.report(path))
  assert "Evaluated before the run finished" in found.text
  for name in ("mistakes.png", "confusion_matrix.json", "classification_report.json"):
    (path / "evaluation" / name).unlink()
  assert "Calibration" in Page(report.report(path)).text


def test_many_classes_are_a_picture(evaluated):
  file = evaluated / "evaluation" / "confusion_matrix.json"
  names = [f"class {i}" for i in range(21)]
  file.write_text(json.dumps({"class_names": names, "counts": np.eye(21, dtype=int).tolist()}))
  Image.new("RGB", (60, 50)).save(evaluated / "evaluation" / "confusion_matrix.png")
  found = Page(report.report(evaluated))
  sizes = [decode(own["src"]).size for name, own in found.tags if name == "img"]
  assert (60, 50) in sizes
  assert not any(len(row) == 22 for row in found.rows)


@pytest.mark.parametrize("epochs", [3, 1])
def test_a_run_that_goes_on_has_a_page(tmp_path, epochs):
  path = write(tmp_path / "run", [0.5], finished=False, epochs=3)
  if epochs == 1:  # killed before its first epoch ended, by a version that wrote no dataset.json
    for name in ("metrics.jsonl", "dataset.json"):
      (path / name).unlink()
  text = Page(report.report(path)).text
  done = 2 if epochs == 3 else 0
  assert f"Unfinished: {done} of 3 epochs" in text
  assert ("No epoch has finished yet" in text) == (epochs == 1)
  assert "Test accuracy" not in text and "Selected onvalidation images" in text
  other = write(tmp_path / "other", [0.5])
  found = Page(report.compare([path, other], tmp_path / "all.html"))
  assert f"unfinished, {done} of 3 epochs" in found.text


def test_selection_on_the_test_set_is_marked(tmp_path):
  honest = write(tmp_path / "honest", [0.5])
  other = write(tmp_path / "other", [0.6], data__validation="test")
  going_on = write(tmp_path / "going_on", [0.6], finished=False, data__validation="test")
  warning = "Selected on the test set"
  for path in (other, going_on):
    assert warning in Page(report.report(path)).text
  assert warning not in Page(report.report(honest)).text
  found = Page(report.compare([honest, other, going_on], tmp_path / "all.html"))
  assert f"{warning}: other, going_on. Their test figures are optimistic, and" in found.text
  assert found.rows[1][:2] == ["honest ", "validation"]
  assert found.rows[2][:2] == ["other ", "test"]
  assert warning not in Page(report.compare([honest], tmp_path / "all.html")).text


def test_each_seed_of_a_run_is_shown(tmp_path):
  values = [0.71, 0.74, 0.72]
  found = Page(report.report(write(tmp_path / "run", values, seed=5)))
  assert found.row("5")[:3] == ["5", "2", "71.00%"]
  error = scipy.stats.sem(values)
  shown = f"{100 * np.mean(values):.2f} ± {100 * error:.2f}%"
  assert found.row("mean ± standard error")[2] == shown
  assert f"Test accuracy{shown}mean ± standard error of 3 seeds" in found.text


def test_means_are_over_seeds_of_runs_that_differ_in_nothing_else(tmp_path):
  values = {"a": [0.70], "b": [0.74], "c": [0.71, 0.73], "other": [0.60], "again": [0.1]}
  seeds = {"a": 0, "b": 1, "c": 2, "again": 0}
  paths = [
    write(tmp_path / name, own, seed=seeds.get(name, 0), data__dir=f"/{name}")
    if name != "other"
    else write(tmp_path / name, own, batch_size=64)
    for name, own in values.items()
  ]
  going_on = write(tmp_path / "going_on", [0.9], finished=False, seed=9)
  fallen = write(tmp_path / "fallen", [0.9], seed=8)
  data = json.loads((fallen / "dataset.json").read_text())
  (fallen / "dataset.json").write_text(json.dumps(data | {"name": "digits", "fingerprint": "0"}))
  paths += [going_on, fallen, paths[0]]
  found = Page(report.compare(paths, tmp_path / "new" / "all.html"))
  one_config = [0.70, 0.74, 0.71, 0.73]
  shown = f"{100 * np.mean(one_config):.2f} ± {100 * scipy.stats.sem(one_config):.2f}%"
  row = found.row("a, b, c and 2 more")
  assert row[1:4] == ["128", "4 (0, 1, 2, 3)", shown]
  first_loss = [value + 0.01 for value in one_config]
  assert row[5] == f"{np.mean(first_loss):.4f} ± {scipy.stats.sem(first_loss):.4f}"
  assert ["other", "64", "1 (0)", "60.00%"] in [row[:4] for row in found.rows]
  assert ["fallen", "128", "1 (8)", "90.00%"] in [row[:4] for row in found.rows]
  assert "have seed 0 more than once" in found.text
  assert "Trained on other data than the config names: fallen." in found.text
  assert "not all of the same data" in found.text
  assert "Comparison of 7 runs" in found.text  # the one named twice is one
  (of_c,) = ([f.strip() for f in row] for row in found.rows[:10] if row[0] == "c ")
  assert f"72.00 ± {100 * scipy.stats.sem([0.71, 0.73]):.2f}%" in of_c


def test_what_differs_is_shown(tmp_path):
  one = write(tmp_path / "x" / "run", [0.5])
  two = write(tmp_path / "y" / "run", [0.5], seed=1, model__depth=16)
  found = Page(report.compare([one, two], tmp_path / "all.html"))
  assert [str(one), "0", "–"] in found.rows  # by path, since their names are the same
  assert [str(two), "1", "16"] in found.rows
  assert "2 fields differ" in found.text
  hidden = Page(report.compare([one], tmp_path / "all.html"))
  assert "All configs are the same" in hidden.text


def test_tables_have_what_sorting_needs():
  rows = [[page.text(name), page.percent(value)] for name, value in (("b", 0.5), ("<a>", None))]
  table = page.table(["name", "share"], rows, [[page.text("all"), page.percent(0.5)]])
  assert 'class="data sortable"' in table
  assert '<td data-sort="&lt;a&gt;"><div>&lt;a&gt;</div></td><td class="n">–</td>' in table
  assert '<td class="n" data-sort="0.5">50.00%</td>' in table
  heads = re.findall(r"<th[^>]*>(<button type=\"button\">\w+</button>)</th>", table)
  assert len(heads) == 2 and '<th class="n" scope="col">' in table
  head, body, foot = re.findall(r"<(thead|tbody|tfoot)>", table)
  assert (head, body, foot) == ("thead", "tbody", "tfoot")


@pytest.mark.parametrize("content", [None, "{", '{"architectures": ["Bert"]}'])
def test_what_is_no_run_folder_is_refused(tmp_path, content):
  if content:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(errors.UserError, match=r"config\.json") as caught:
    report.report(tmp_path)
  assert str(tmp_path) in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"] * bool(content)


def test_a_recorded_run_has_a_page(tmp_path):
  """One that was made before dataset.json was."""
  path = tmp_path / "quickstart"
  shutil.copytree(small_runs.ROOT / "benchmarks" / "results" / "quickstart", path)
  found = Page(report.report(path))
  recorded = json.loads((path / "results.json").read_text())
  assert f"Test accuracy{recorded['test_accuracy']:.2%}" in found.text
