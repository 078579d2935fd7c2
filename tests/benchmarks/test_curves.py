"""The pictures of the recorded runs."""

import pytest
from PIL import Image

from benchmarks import curves, tables


@pytest.mark.parametrize("report", curves.REPORTS)
def test_a_picture_shows_the_records_of_its_report(report):
  with Image.open(curves.path(report)) as picture:
    drawn = picture.info["Description"]
  assert drawn == curves.describe(report), "run python -m benchmarks.curves"
  page = (tables.ROOT / "docs" / "reports.md").read_text()
  assert f"(gallery/{curves.path(report).name})" in page


def test_every_report_with_a_record_has_a_picture():
  folders = (tables.ROOT / "benchmarks" / "results").glob("report*")
  assert {folder.name.split("_")[0] for folder in folders} == set(curves.REPORTS)


@pytest.mark.parametrize(
  ("text", "figures"),
  [
    ("none printed", []),
    ("about 88 % validation", [("validation", [0.88], [])]),
    ("91.5–93 % validation", [("validation", [0.915, 0.93], [])]),
    (
      "78.4 % test (loss 0.981), 76.3 and 78.75 % validation",
      [("test", [0.784], [0.981]), ("validation", [0.763, 0.7875], [])],
    ),
    (
      "validation loss 0.765, training loss 0.198",
      [("validation", [], [0.765]), ("training", [], [0.198])],
    ),
  ],
)
def test_figures_of_a_report(text, figures):
  assert curves.parse_reported(text) == [
    (split, pytest.approx(accuracies), losses) for split, accuracies, losses in figures
  ]
