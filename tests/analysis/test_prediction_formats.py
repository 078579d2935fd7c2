"""The files of `--mode=predict --output=FILE`, written while the predictions come."""

import contextlib
import csv
import io
import json
import os
import sys
import threading

import pytest
from corner_network import CORNERS, make_run, photo_of, predict_text

from analysis import files, images, predict, prediction_formats
from cifar_jax import errors


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("runs") / "corners")


@pytest.fixture
def photos(tmp_path):
  """A folder of two photos and a broken file."""
  folder = tmp_path / "photos"
  folder.mkdir()
  (folder / "a, b.png").write_bytes(photo_of("top_right"))
  (folder / "c.png").write_bytes(photo_of("bottom_left"))
  (folder / "broken.png").write_bytes(b"broken")
  return folder


def test_csv_has_a_line_for_each_image_and_network(workdir, photos, tmp_path, log_lines):
  unsure = make_run(tmp_path / "unsure", scale=0.4)
  path = tmp_path / "new" / "predictions.csv"
  text, code = predict_text([workdir, unsure], [photos], output=path)
  assert (text, code) == (f"wrote {path}: 2 images, 1 skipped", predict.SOME_SKIPPED)
  assert log_lines == [f"skipped {photos / 'broken.png'}: not an image"]
  with path.open(newline="") as file:
    lines = list(csv.DictReader(file))
  assert [(line["file"], line["network"], line["class"]) for line in lines] == [
    (str(photos / name), network, corner)
    for name, corner in (("a, b.png", "top_right"), ("c.png", "bottom_left"))
    for network in ("corners", "unsure")
  ]
  assert [line["flag"] for line in lines] == ["", "none of these?"] * 2
  content = json.loads(predict_text([workdir, unsure], [photos], as_json=True)[0])
  (_, ranked) = content["images"][0]["predictions"]
  assert float(lines[1]["probability"]) == ranked["probability"]
  for rank, one in enumerate(ranked["top5"][1:], start=2):
    assert lines[1][f"class_{rank}"] == one["class"]
    assert float(lines[1][f"probability_{rank}"]) == one["probability"]
  assert lines[1]["class_5"] == lines[1]["probability_5"] == ""  # there are four classes


@pytest.mark.parametrize(
  ("start", "shown"),
  [*((c, f"'{c}") for c in "=+-@"), ("\t=", "\\t="), ("\r=", "\\r="), ("é", "é")],
)
def test_no_text_of_a_csv_is_a_formula(start, shown):
  text = f'{start}1+1,"x'
  top5 = [{"class": f"{start}2", "probability": 0.5}]
  prediction = {"run": f"{start}3", "top5": top5, "probably_none_of_the_classes": False}
  results = [{"file": text, "predictions": [prediction]}]
  heading = prediction_formats.Heading([], prediction_formats.Thresholds(0.4, 0.7))
  content = "".join(prediction_formats.format_csv(heading, results))
  _, cells = csv.reader(io.StringIO(content, newline=""))
  assert cells[:4] == [f'{shown}1+1,"x', f"{shown}3", f"{shown}2", "0.5"]


def test_json_lines_and_json_hold_the_same(workdir, photos, tmp_path, log_lines):
  as_json, as_lines = tmp_path / "p.json", tmp_path / "p.jsonl"
  assert predict_text([workdir], [photos], output=as_json)[1] == 2
  assert not log_lines  # the document names the skipped files
  assert predict_text([workdir], [photos], output=as_lines)[1] == 2
  text, _ = predict_text([workdir], [photos], as_json=True)
  content = json.loads(text)
  assert as_json.read_text() == f"{json.dumps(content, indent=2)}\n"
  assert [json.loads(line) for line in as_lines.read_text().splitlines()] == content["images"]
  assert [bad["file"] for bad in content["skipped"]] == [str(photos / "broken.png")]


def test_json_without_images(workdir, photos):
  text, code = predict_text([workdir], [photos / "broken.png"], as_json=True)
  assert code == predict.NONE_READ
  assert text == json.dumps(json.loads(text), indent=2)


def test_text_is_a_table_and_for_many_images_lines(workdir, photos, tmp_path, monkeypatch):
  path = tmp_path / "p.txt"
  predict_text([workdir], [photos], output=path)
  assert path.read_text() == predict_text([workdir], [photos])[0] + "\n"
  assert path.read_text().split()[:4] == ["corners", "file", "class", "probability"]
  monkeypatch.setattr(prediction_formats, "MAX_TABLE_IMAGES", 2)
  predict_text([workdir], [photos], output=path)
  assert path.read_text().splitlines() == [
    f"{photos / 'a, b.png'}: corners → top_right (100.00%)",
    f"skipped {photos / 'broken.png'}: not an image",
    f"{photos / 'c.png'}: corners → bottom_left (100.00%)",
  ]


def test_lines_mark_and_explain_the_flag(tmp_path, photos, monkeypatch):
  monkeypatch.setattr(prediction_formats, "MAX_TABLE_IMAGES", 1)
  unsure = make_run(tmp_path / "unsure", scale=0.4)
  text, _ = predict_text([unsure], [photos])
  content = json.loads(predict_text([unsure], [photos], as_json=True)[0])
  probability = content["images"][0]["predictions"][0]["probability"]
  assert f"unsure → top_right ({probability:.2%}), none of these?\n" in text
  assert text.splitlines()[-1].startswith("none of these? marks a probability below 40%")


def test_results_come_and_files_are_read_a_window_at_a_time(workdir, tmp_path, monkeypatch):
  for i in range(60):
    (tmp_path / f"{i:02}.png").write_bytes(photo_of(CORNERS[i % 4]))
  monkeypatch.setattr(predict, "call_size", lambda: 4)
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  monkeypatch.setattr(prediction_formats, "MAX_TABLE_IMAGES", 10)
  num_read, lock, most_ahead, num_printed = 0, threading.Lock(), 0, 0
  read_file = images.read_file

  def count_reads(path):
    nonlocal num_read
    with lock:
      num_read += 1
    return read_file(path)

  def count_printed(line, **_):
    nonlocal num_printed, most_ahead
    most_ahead = max(most_ahead, num_read - num_printed)
    num_printed += 1
    assert line.endswith(f"{CORNERS[(num_printed - 1) % 4]} (100.00%)\n")

  monkeypatch.setattr(images, "read_file", count_reads)
  monkeypatch.setattr(predict, "print", count_printed, raising=False)
  assert predict.predict([workdir], [tmp_path]) == 0
  assert num_printed == num_read == 60
  assert most_ahead <= 4 + 8 + 1  # a window, and those that two threads are ahead


@pytest.mark.parametrize(
  ("options", "has_bar"), [({"as_json": True}, False), ({"output": "p.csv"}, True), ({}, True)]
)
def test_no_bar_is_drawn_over_results_on_a_terminal(
  options, has_bar, workdir, photos, monkeypatch, tmp_path
):
  titles = []

  @contextlib.contextmanager
  def show(title, *_):
    titles.append(title)
    yield lambda n: None

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(predict, "progress", show)
  monkeypatch.setattr(sys, "stdout", output := io.StringIO())
  monkeypatch.setattr(output, "isatty", lambda: True)
  assert predict.predict([workdir], [photos], **options) == 2
  assert titles == ["predict"] * has_bar


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("p.xlsx", r"--output: .*p\.xlsx must end in \.csv or \.jsonl or \.json or \.txt; the ending"),
    ("predictions", r"--output: .*predictions must end in \.csv or"),
    ("folder.csv", r"--output: .*folder\.csv is a folder; name a file"),
    ("/proc/p.csv", r"--output: /proc/p\.csv cannot be written \(.*\); name another file"),
    ("file/p.csv", r"--output: .*file/p\.csv cannot be written \(.*\); name another file"),
  ],
)
def test_an_output_that_cannot_be_written_is_one_line(name, message, workdir, photos, tmp_path):
  (tmp_path / "folder.csv").mkdir()
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match=message):
    predict.predict([workdir], [photos], output=tmp_path / name)


def test_json_and_output_exclude_each_other(workdir, photos, tmp_path):
  with pytest.raises(errors.UserError, match="--json: excludes --output; use --output"):
    predict.predict([workdir], [photos], as_json=True, output=tmp_path / "p.json")


def test_a_full_disk_leaves_the_older_file(workdir, photos, tmp_path, monkeypatch):
  path = tmp_path / "p.csv"
  path.write_text("older")

  def fail(heading, results):
    yield "a line\n"
    assert len(list(tmp_path.glob(".p.csv*"))) == 1  # not yet under its name
    raise OSError(28, "No space left on device")

  monkeypatch.setitem(prediction_formats.ENDINGS, ".csv", fail)
  with pytest.raises(errors.UserError, match=r"p\.csv cannot be written \(No space left"):
    predict.predict([workdir], [photos], output=path)
  assert path.read_text() == "older"
  assert not list(tmp_path.glob(".p.csv*"))


def test_pages_end_in_html(tmp_path):
  assert files.prepare_output(tmp_path / "a" / "page.html", [".html"]).parent.is_dir()
  with pytest.raises(errors.UserError, match=r"page\.pdf must end in \.html"):
    files.prepare_output(tmp_path / "page.pdf", [".html"])
