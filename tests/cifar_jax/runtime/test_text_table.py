"""Plain-text tables: alignment, and text that rich would otherwise interpret."""

from cifar_jax.runtime.text_table import format_table


def test_columns_are_aligned():
  rows = [["resnet18", "11,173,962", ""], ["", "7", "note"]]
  assert format_table(["model", "parameters", "flag"], rows, right={1}).splitlines() == [
    "model     parameters  flag",
    "resnet18  11,173,962",
    "                   7  note",
  ]


def test_markup_wide_characters_and_long_cells_stay_as_they_are(monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "20")
  long = "x" * 300
  rows = [["[bold]a", ":smile:", long], ["猫", "b", "c"]]
  assert format_table(["first\nline", "two", "three"], rows).splitlines() == [
    "first",
    "line     two      three",
    f"[bold]a  :smile:  {long}",
    "猫       b        c",  # two characters wide on a terminal
  ]


def test_a_cell_cannot_break_the_line_or_control_the_terminal():
  rows = [["a\nb\x1b[2J", "1"]]
  assert format_table(["file", "n"], rows).splitlines() == [
    "file         n",
    "a\\nb\\x1b[2J  1",
  ]
