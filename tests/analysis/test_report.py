"""Pages about runs: the tests write run folders, and parse the pages as a browser does."""

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

from analysis.report import evaluation, page, report
from cifar_jax import errors
from cifar_jax.runs import test_uses
from configs import default

EVIL = "<script>alert(1)<!--&\"' run"
CLASSES = ["cat", "<script>&\"'</table>", *(f"class {i}" for i in range(6))]
FIGURES = ("test_accuracy", "test_loss", "test_top5", "val_accuracy", "val_loss", "val_top5")


def write_run(
  path: pathlib.Path, values: list[float], finished: bool = True, epochs: int = 3, **fields: object
) -> pathlib.Path:
  """Write a run folder; `values` are the test accuracies of its seeds."""
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
  rows[0]["val_loss"] = None  # JSON's value for NaN
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  (path / "dataset.json").write_text(json.dumps(data))
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if not finished:
    return path
  per_seed = [
    {"seed": seed, "best_epoch": 2} | {name: value + i / 100 for i, name in enumerate(FIGURES)}
    for seed, value in zip(seeds, values, strict=True)
  ]
  results = {name: np.mean([row[name] for row in per_seed]) for name in FIGURES}
  if len(values) > 1:
    results |= {
      f"{n}_standard_error": scipy.stats.sem([row[n] for row in per_seed]) for n in FIGURES
    }
    results["per_seed"] = per_seed
  else:
    results["best_epoch"] = 2
  selected_on = "test" if config.data.validation == "test" else "validation"
  results |= {"selected_on": selected_on, "seeds": seeds, "epochs_run": epochs, "model": "resnet18"}
  results |= {"parameters": {"trainable": 12345, "non_trainable": 55, "total": 12400}, "data": data}
  results["device"] = {"platform": "cpu", "kind": "cpu <1>", "count": 1, "processes": 1}
  results["device"]["cpu_cores"] = 2
  results |= {"versions": {"python": "3.11", "jax": "0.10.2"}, "git_commit": "abcdef" * 7}
  results |= {"finished": "2026-01-02T03:04:05+00:00", "seconds_to_train": 3661.0}
  (path / "results.json").write_text(json.dumps(results | {"compile_seconds": 7.25}))
  return path


def write_evaluation(
  path: pathlib.Path, evaluated: str = "2026-01-03T00:00:00+00:00"
) -> np.ndarray:
  """Write the files of `--mode=evaluate` that a page reads; return the confusion matrix."""
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
  """A parsed page.

  Attributes:
    tags: (name, attributes) of every element.
    text: the visible text, without style and script elements.
    rows: the texts of the fields of all rows of all tables.
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
    (match,) = (row for row in self.rows if row and row[0].strip() == first)
    return [field.strip() for field in match]

  def references(self) -> list[str]:
    names = ("src", "srcset", "href", "action", "data", "poster", "background", "xlink:href")
    return [
      value for _, attributes in self.tags for name, value in attributes.items() if name in names
    ]


@pytest.fixture
def evaluated(tmp_path):
  path = write_run(tmp_path / "run", [0.7309])
  write_evaluation(path)
  return path


def test_names_are_escaped(tmp_path):
  attack = "</script><img src=x onerror=alert(1)>"
  path = write_run(tmp_path / EVIL, [0.5], data__source=attack)
  write_evaluation(path)
  other = write_run(tmp_path / "other", [0.5])
  pages = [
    Page(report.write_report(path)),
    Page(report.write_comparison([path, other], tmp_path / "all.html")),
  ]
  for parsed in pages:
    assert [name for name, _ in parsed.tags].count("script") == 1  # the page's script
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    assert "x" not in parsed.references()
    assert EVIL in parsed.text and attack in parsed.text
  assert CLASSES[1] in pages[0].text


def test_pages_need_no_network(evaluated, tmp_path):
  for file in (
    report.write_report(evaluated),
    report.write_comparison([evaluated], tmp_path / "all.html"),
  ):
    parsed = Page(file)
    outside = [r for r in parsed.references() if not r.startswith(("data:image/png;base64,", "#"))]
    assert outside == ([] if file.name == "report.html" else ["run/report.html"])
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]*", "", parsed.source))
    (policy,) = (a["content"] for _, a in parsed.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", parsed.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'")
  assert not list(tmp_path.glob("**/.*.tmp"))


def test_a_page_is_written_where_the_caller_wants_it(evaluated, tmp_path):
  path = tmp_path / "page.html"
  assert report.write_report(evaluated, path) == path
  assert evaluated.name in path.read_text()
  assert not (evaluated / "report.html").exists()


def test_charts_are_drawn_for_light_and_dark_pages(evaluated):
  parsed = Page(report.write_report(evaluated))
  images = [a["src"] for name, a in parsed.tags if name == "img"]
  dark = [a["srcset"] for name, a in parsed.tags if name == "source"]
  assert all(a["alt"] for name, a in parsed.tags if name == "img")
  mistakes = images.pop(3)  # the charts of loss, accuracy and learning rate come before
  assert decode(mistakes).size == (40, 30)
  assert len(images) == len(dark) == 5
  for pair in zip(images, dark, strict=True):
    ink = []
    for uri in pair:
      pixels = np.asarray(decode(uri).convert("RGBA"), int)
      assert pixels[..., 3].min() == 0  # the page is visible through it
      opaque = pixels[pixels[..., 3] == 255][:, :3]
      ink.append(opaque[np.ptp(opaque, axis=1) < 20].mean())  # grey pixels: text
    assert ink[0] < 120 < ink[1]


def decode(uri: str) -> Image.Image:
  return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_figures_are_those_of_the_run(evaluated):
  parsed = Page(report.write_report(evaluated))
  for shown in (
    *("Test accuracy73.09%", "Test loss0.7409", "Test top-575.09%", "Validation accuracy76.09%"),
    *("12,400", "1 h 01 min", "7.2 s", "900 train, 100 validation, 200 test"),
    "the epoch in which val_accuracy was highest: epoch 2 of 3",
    *("validation images", "1 × cpu <1>", "jax 0.10.2", "f" * 64, "abcdef" * 7),
    "2026-01-02 03:04 UTC",
  ):
    assert shown in parsed.text, shown
  assert "optimistic" not in parsed.text and "nfinished" not in parsed.text
  assert parsed.row("1") == ["1", "1.0000", "–", "50.00%", "40.00%", "0.1", "123", "4.0"]
  assert parsed.row("optimizer.name") == ["optimizer.name", '"sgd"']
  assert [row for row in parsed.rows if row[0] == "num_epochs"] == [
    ["num_epochs", "3", "10"],  # what differs from the defaults
    ["num_epochs", "3"],  # all fields
  ]


def add_penalty(path: pathlib.Path) -> None:
  """Add the objective, 0.25 more than the loss, to every file of a run folder that has a loss."""
  rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
  for row in rows:
    for split in ("train", "val"):
      row[f"{split}_objective"] = 0.25 + (row[f"{split}_loss"] or 0)
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if (file := path / "results.json").exists():
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test_objective": 0.9909}))
  if (file := path / "evaluation" / "evaluation.json").exists():
    evaluation = json.loads(file.read_text())
    for split in evaluation["splits"].values():
      split["objective"] = 1.0154
    file.write_text(json.dumps(evaluation))


def test_the_loss_with_its_penalty_is_shown_wherever_the_loss_is(evaluated, tmp_path):
  assert "bjective" not in Page(report.write_report(evaluated)).text
  add_penalty(evaluated)
  parsed = Page(report.write_report(evaluated))
  assert "Test objective (loss + penalty)0.9909" in parsed.text
  assert ("figcaption", {}) in parsed.tags and "Objective (loss + L2 penalty)" in parsed.text
  assert parsed.row("3")[5:7] == ["0.5833", "0.9167"]  # of training and validation
  assert parsed.row("test")[-1] == parsed.row("test, flip")[-1].replace("–", "1.0154") == "1.0154"
  unfinished = write_run(tmp_path / "unfinished", [0.5], finished=False)
  add_penalty(unfinished)
  assert "Validation objective1.2500" in Page(report.write_report(unfinished)).text
  plain = write_run(tmp_path / "plain", [0.6], seed=3)
  compared = Page(report.write_comparison([evaluated, plain], tmp_path / "page.html"))
  for shown in ("Validation objective (loss + L2 penalty)", "Training objective (loss"):
    assert shown in compared.text
  assert "test objective (loss + penalty)" in compared.rows[0]
  assert [row for row in compared.rows if "0.9909" in row]


def test_top5_is_drawn_by_epoch_where_there_are_more_than_five_classes(tmp_path):
  path = write_run(tmp_path / "run", [0.7])
  assert "Top-5 accuracy" not in Page(report.write_report(path)).text
  rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
  rows = [row | {"train_top5": 0.875, "val_top5": 0.9} for row in rows]
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  parsed = Page(report.write_report(path))
  assert "Top-5 accuracy" in parsed.text and "87.50%" in parsed.row("1")
  assert "Training top-5" in Page(report.write_comparison([path], tmp_path / "page.html")).text
  data = json.loads((path / "dataset.json").read_text()) | {"class_names": ["cat", "dog"]}
  (path / "dataset.json").write_text(json.dumps(data))
  parsed = Page(report.write_report(path))
  assert "Top-5 accuracy" not in parsed.text and "87.50%" not in parsed.row("1")


def test_evaluation_is_shown(tmp_path):
  path = write_run(tmp_path / "run", [0.7309])
  counts = write_evaluation(path)
  parsed = Page(report.write_report(path))
  assert parsed.row("train") == ["train", f"{counts.sum():,}", "61.11%", "93.33%", "0.7654"]
  assert parsed.row("test, flip")[2] == "62.22%"
  assert "+1.11 points" in parsed.text and "equals that in results.json" in parsed.text
  matrix = [row for row in parsed.rows if len(row) == 1 + len(CLASSES)]
  matrix = [row for row in matrix if row[0] in CLASSES]
  assert [row[0] for row in matrix] == CLASSES
  np.testing.assert_array_equal([list(map(int, row[1:])) for row in matrix], counts)
  most = parsed.rows[[row[:2] for row in parsed.rows].index(["true", "predicted"]) + 1]
  true, predicted = CLASSES.index(most[0]), CLASSES.index(most[1])
  assert int(most[2]) == counts[true, predicted] == (counts - np.diag(np.diag(counts))).max()
  assert ["class 0", "25.00%", "28.57%", "50.00%", "20"] in parsed.rows
  assert ["cat", "98.77%", CLASSES[1], "17"] in parsed.rows
  assert "7.77% (2 bins)" in parsed.text and "--mode=evaluate" not in parsed.text


def test_a_missing_evaluation_is_noted_with_the_command_that_makes_it(tmp_path):
  path = write_run(tmp_path / "a run", [0.5])
  parsed = Page(report.write_report(path))
  assert f"python main.py --mode=evaluate --workdir='{path}'" in parsed.text
  assert "Calibration" not in parsed.text
  write_evaluation(path, evaluated="2026-01-01T00:00:00+00:00")
  parsed = Page(report.write_report(path))
  assert "Evaluated before the run finished" in parsed.text
  for name in ("mistakes.png", "confusion_matrix.json", "classification_report.json"):
    (path / "evaluation" / name).unlink()
  assert "Calibration" in Page(report.write_report(path)).text


def test_the_confusions_of_many_classes_are_a_picture(evaluated):
  file = evaluated / "evaluation" / "confusion_matrix.json"
  names = [f"class {i}" for i in range(21)]
  file.write_text(json.dumps({"class_names": names, "counts": np.eye(21, dtype=int).tolist()}))
  Image.new("RGB", (60, 50)).save(evaluated / "evaluation" / "confusion_matrix.png")
  parsed = Page(report.write_report(evaluated))
  sizes = [decode(a["src"]).size for name, a in parsed.tags if name == "img"]
  assert (60, 50) in sizes
  assert not any(len(row) == 22 for row in parsed.rows)


@pytest.mark.parametrize("epochs", [3, 1])
def test_an_unfinished_run_has_a_page(tmp_path, epochs):
  path = write_run(tmp_path / "run", [0.5], finished=False, epochs=3)
  if epochs == 1:  # killed in its first epoch, by a version that wrote no dataset.json
    for name in ("metrics.jsonl", "dataset.json"):
      (path / name).unlink()
  text = Page(report.write_report(path)).text
  done = 2 if epochs == 3 else 0
  assert f"Unfinished: {done} of 3 epochs" in text
  assert ("No epoch has finished yet" in text) == (epochs == 1)
  assert "Test accuracy" not in text and "Selected onvalidation images" in text
  other = write_run(tmp_path / "other", [0.5])
  parsed = Page(report.write_comparison([path, other], tmp_path / "all.html"))
  assert f"unfinished, {done} of 3 epochs" in parsed.text


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_that_was_not_tested_has_a_page(tmp_path, seeds):
  path = write_run(tmp_path / "run", [0.5] * seeds)
  content = json.loads((path / "results.json").read_text())
  for figures in (content, *content.get("per_seed", ())):
    for name in [name for name in figures if name.startswith("test_")]:
      del figures[name]
  (path / "results.json").write_text(json.dumps(content))
  text = Page(report.write_report(path)).text
  assert "Not tested." in text and "Test imagesnever used" in text
  assert "Test accuracy" not in text and "Validation accuracy53.00" in text
  tested = write_run(tmp_path / "tested", [0.5], batch_size=77)
  rows = Page(report.write_comparison([path, tested], tmp_path / "all.html")).rows
  assert rows[0].index("test accuracy") and "–" in rows[1] and "–" not in rows[2]


def test_uses_of_the_test_images_are_shown(tmp_path):
  path = write_run(tmp_path / "run", [0.5])
  for i in range(5):
    test_uses.record(path, "evaluate", f"look {i} <b>")
  test_uses.record(path, "evaluate", "other images", "cifar10.1")
  text = Page(report.write_report(path)).text
  assert "200 images; test images used 6 times" in text
  assert "Test imagesused 6 times (…; evaluate: look 0 <b>; " in text and "other" not in text
  seeds = write_run(tmp_path / "seeds", [0.5, 0.6])
  assert "of 2 seeds; test images used once" in Page(report.write_report(seeds)).text
  rows = Page(report.write_comparison([path, seeds], tmp_path / "all.html")).rows
  column = rows[0].index("uses of test images")
  assert [row[column] for row in rows[1:3]] == ["6", "1"]


def test_selection_on_the_test_set_is_marked(tmp_path):
  honest = write_run(tmp_path / "honest", [0.5])
  other = write_run(tmp_path / "other", [0.6], data__validation="test")
  unfinished = write_run(tmp_path / "unfinished", [0.6], finished=False, data__validation="test")
  warning = "Selected on the test set"
  for path in (other, unfinished):
    assert warning in Page(report.write_report(path)).text
  assert warning not in Page(report.write_report(honest)).text
  parsed = Page(report.write_comparison([honest, other, unfinished], tmp_path / "all.html"))
  assert f"{warning}: other, unfinished. Their test figures are optimistic and not" in parsed.text
  assert parsed.rows[1][:2] == ["honest ", "validation"]
  assert parsed.rows[2][:2] == ["other ", "test"]
  assert warning not in Page(report.write_comparison([honest], tmp_path / "all.html")).text


def test_each_seed_of_a_run_is_shown(tmp_path):
  values = [0.71, 0.74, 0.72]
  parsed = Page(report.write_report(write_run(tmp_path / "run", values, seed=5)))
  assert parsed.row("5")[:3] == ["5", "2", "71.00%"]
  error = scipy.stats.sem(values)
  shown = f"{100 * np.mean(values):.2f} ± {100 * error:.2f}%"
  assert parsed.row("mean ± standard error")[2] == shown
  assert f"Test accuracy{shown}mean ± standard error of 3 seeds" in parsed.text


def test_means_are_over_runs_that_differ_only_in_the_seed(tmp_path):
  values = {"a": [0.70], "b": [0.74], "c": [0.71, 0.73], "other": [0.60], "again": [0.1]}
  seeds = {"a": 0, "b": 1, "c": 2, "again": 0}
  paths = [
    write_run(tmp_path / name, accuracies, seed=seeds.get(name, 0), data__dir=f"/{name}")
    if name != "other"
    else write_run(tmp_path / name, accuracies, batch_size=64)
    for name, accuracies in values.items()
  ]
  unfinished = write_run(tmp_path / "unfinished", [0.9], finished=False, seed=9)
  fallen = write_run(tmp_path / "fallen", [0.9], seed=8)
  data = json.loads((fallen / "dataset.json").read_text())
  (fallen / "dataset.json").write_text(json.dumps(data | {"name": "digits", "fingerprint": "0"}))
  paths += [unfinished, fallen, paths[0]]
  parsed = Page(report.write_comparison(paths, tmp_path / "new" / "all.html"))
  one_config = [0.70, 0.74, 0.71, 0.73]
  shown = f"{100 * np.mean(one_config):.2f} ± {100 * scipy.stats.sem(one_config):.2f}%"
  row = parsed.row("a, b, c and 2 more")
  assert row[1:4] == ["128", "4 (0, 1, 2, 3)", shown]
  first_loss = [value + 0.01 for value in one_config]
  assert row[5] == f"{np.mean(first_loss):.4f} ± {scipy.stats.sem(first_loss):.4f}"
  assert ["other", "64", "1 (0)", "60.00%"] in [row[:4] for row in parsed.rows]
  assert ["fallen", "128", "1 (8)", "90.00%"] in [row[:4] for row in parsed.rows]
  assert "have seed 0 more than once" in parsed.text
  assert "Trained on another dataset than the config names: fallen." in parsed.text
  assert "use different datasets" in parsed.text
  assert "Comparison of 7 runs" in parsed.text  # the repeated folder counts once
  (row_of_c,) = ([f.strip() for f in row] for row in parsed.rows[:10] if row[0] == "c ")
  assert f"72.00 ± {100 * scipy.stats.sem([0.71, 0.73]):.2f}%" in row_of_c


def test_differing_fields_are_shown(tmp_path):
  one = write_run(tmp_path / "x" / "run", [0.5])
  two = write_run(tmp_path / "y" / "run", [0.5], seed=1, model__depth=16)
  parsed = Page(report.write_comparison([one, two], tmp_path / "all.html"))
  assert [str(one), "0", "–"] in parsed.rows  # by path, because the names are the same
  assert [str(two), "1", "16"] in parsed.rows
  assert "2 fields differ" in parsed.text
  alone = Page(report.write_comparison([one], tmp_path / "all.html"))
  assert "All configs are the same" in alone.text


def test_runs_older_than_a_field_have_its_default(tmp_path):
  new = write_run(tmp_path / "new", [0.5])
  old = write_run(tmp_path / "old", [0.7], seed=1)
  config = json.loads((old / "config.json").read_text())
  del config["lookahead"], config["tta"], config["data"]["split_seed"]
  (old / "config.json").write_text(json.dumps(config))
  parsed = Page(report.write_comparison([new, old], tmp_path / "all.html"))
  assert parsed.row("new, old")[1] == "2 (0, 1)"
  assert "One field differs" in parsed.text  # the seed


def test_tables_have_keys_for_sorting():
  rows = [
    [page.text_cell(name), page.percent_cell(value)] for name, value in (("b", 0.5), ("<a>", None))
  ]
  table = page.table(["name", "share"], rows, [[page.text_cell("all"), page.percent_cell(0.5)]])
  assert 'class="data sortable"' in table
  assert '<td data-sort="&lt;a&gt;"><div>&lt;a&gt;</div></td><td class="n">–</td>' in table
  assert '<td class="n" data-sort="0.5">50.00%</td>' in table
  heads = re.findall(r"<th[^>]*>(<button type=\"button\">\w+</button>)</th>", table)
  assert len(heads) == 2 and '<th class="n" scope="col">' in table
  head, body, foot = re.findall(r"<(thead|tbody|tfoot)>", table)
  assert (head, body, foot) == ("thead", "tbody", "tfoot")


@pytest.mark.parametrize("content", [None, "{", '{"architectures": ["Bert"]}'])
def test_folders_without_a_run_are_rejected(tmp_path, content):
  if content:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(errors.UserError, match=r"config\.json") as caught:
    report.write_report(tmp_path)
  assert str(tmp_path) in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"] * bool(content)


def test_a_recorded_run_has_a_page(tmp_path):
  """The run is older than dataset.json."""
  path = tmp_path / "quickstart"
  shutil.copytree(small_runs.ROOT / "benchmarks" / "results" / "quickstart", path)
  parsed = Page(report.write_report(path))
  recorded = json.loads((path / "results.json").read_text())
  assert f"Test accuracy{recorded['test_accuracy']:.2%}" in parsed.text


def test_parts_of_a_test_set_count_by_their_images():
  parts = [
    {"examples": 30, "accuracy": 0.5, "ece": 0.1},
    {"examples": 10, "accuracy": 0.9, "ece": 0.3},
  ]
  cells = evaluation._make_test_set_row("fog", parts)
  assert [cell.content for cell in cells] == ["fog", "40", "60.00%", "15.00%"]
