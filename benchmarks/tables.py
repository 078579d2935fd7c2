"""The tables of README.md and benchmarks/README.md, made from the records in benchmarks/results/.

  python -m benchmarks.tables

rewrites them. The record of a run is a folder named after the config, with config.json,
metrics.jsonl and results.json; a reproduction without one is "not run". Those of benchmarks are
files in speed/, each written by the benchmark it is named after.
"""

import importlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from benchmarks import records

ROOT = pathlib.Path(__file__).parent.parent
_RECORDS = ROOT / "benchmarks" / "results"
_BEGIN, _END = "<!-- {} made by python -m benchmarks.tables -->", "<!-- end -->"


def accuracy() -> str:
  """The reproductions beside what their reports print, then all other recorded runs."""
  names = sorted(
    path.stem for path in (ROOT / "configs" / "reproductions").glob("*.py") if path.stem[0] != "_"
  )
  recorded = sorted(path.parent.name for path in _RECORDS.glob("*/results.json"))
  rows = [_row(name, "") for name in recorded if name not in names]
  first = _table(["config", "ours", "selected on", "seeds", "epochs", "device"], rows)
  rows = []
  for name in names:
    reported = importlib.import_module(f"configs.reproductions.{name}").REPORTED
    rows.append(_row(name, "reproductions/", reported))
  header = ["config", "the report prints", "ours", "selected on", "seeds", "epochs", "device"]
  return f"{first}\n\n{_table(header, rows)}"


def speed() -> str:
  """Training steps of recorded benchmarks, ours beside the others'."""
  header = ["network", "batch", "dtype", "device", "ours, ms a step", "as a multiple of …"]
  rows = []
  for file in sorted((_RECORDS / "speed").glob("train_step_*.json")):
    found = json.loads(file.read_text())
    ours, *others = found["rows"]
    ratios = [
      f"{row['side']}'s {row['step ms']:.4g}: {row['ours / it']['median']:.2f}"
      for row in others
      if row.get("ours / it")
    ]
    device = found["environment"]["sides"]["ours"]["device"]
    cores = f", {device['cpu_cores']} cores" if device["platform"] == "cpu" else ""
    row = [ours["model"], str(ours["batch"]), ours["dtype"]]
    row += [f"{device['count']} × {device['kind']}{cores}", f"{ours['step ms']:.4g}"]
    rows.append([*row, ", ".join(ratios)])
  return _table(header, rows)


def costs() -> str:
  """What a step's input, the start of a run and several seeds at once cost."""
  rows = []
  for row in _rows("input_cost"):
    if row["input"] == "augmented":
      spread = f"{row['lowest %']:.1f} to {row['highest %']:.1f}"
      cost = f"{row['cost %']:.1f} % of a step ({spread} in single rounds)"
      rows.append(["input: gather, crop, flip, normalise", row, cost])
  starts = (
    ("first start on a machine, CIFAR-10 fetched and prepared", "startup_prepare", "cold"),
    ("first start of a network, all of it compiled", "startup", "cold"),
    ("second start", "startup", "warm"),
  )
  for what, name, state in starts:
    row = _rows(name)[0]
    text = f"{row[f'begun {state} s']:.1f} s until its first step begins, "
    rows.append([what, row, text + f"{row[f'{state} s']:.1f} s until that is done"])
  for row in _rows("seeds")[1:]:
    text = f"{records.cell_text(row['ratio'])} times as long as one after the other"
    rows.append([f"{row['seeds']} seeds in one program", row, text])
  header = ["what", "network", "batch", "cost"]
  return _table(header, [[what, row["model"], str(row["batch"]), text] for what, row, text in rows])


def recorded(name: str, *columns: str) -> Callable[[], str]:
  """A function that makes the table of some columns of a benchmark's record."""

  def table() -> str:
    rows = [[records.cell_text(row.get(column)) for column in columns] for row in _rows(name)]
    return _table(list(columns), rows)

  return table


# The blocks of each file, in order.
TABLES = {
  "README.md": {"accuracy": accuracy, "speed": speed, "costs": costs},
  "benchmarks/README.md": {
    "soak": recorded("soak", "fault", "times", "equal", "kept"),
    "fuzz": recorded("fuzz", "target", "files", "read", "refused", "broken", "slowest ms"),
    "processes": recorded(
      "processes", "source", "processes", "devices", "steps", "largest difference", "bytes"
    ),
  },
}


def _rows(benchmark: str) -> list[dict[str, Any]]:
  return json.loads((_RECORDS / "speed" / f"{benchmark}.json").read_text())["rows"]


def _row(name: str, folder: str, *before: str) -> list[str]:
  link = f"[{name}](configs/{folder}{name}.py)"
  file = _RECORDS / name / "results.json"
  if not file.exists():
    return [link, *before, "not run", "", "", "", ""]
  found = json.loads(file.read_text())
  return [
    link,
    *before,
    _figures(found),
    found["selected_on"],
    str(len(found["seeds"])),
    str(found["epochs_run"]),
    f"{found['device']['count']} × {found['device']['kind']}",
  ]


def _figures(found: dict[str, Any]) -> str:
  parts = []
  named = {"test": "test", "test_tta": f"test with {found.get('tta')}", "val": "validation"}
  for split, name in named.items():
    if found.get(f"{split}_accuracy") is not None:
      text = f"{100 * found[f'{split}_accuracy']:.1f}"
      if f"{split}_accuracy_standard_error" in found:
        text += f" ± {100 * found[f'{split}_accuracy_standard_error']:.1f}"
      parts.append(f"{text} % {name}")
  return ", ".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def updated(file: str) -> str:
  """The text of a file of TABLES, with its tables as the records are now."""
  text = (ROOT / file).read_text()
  for name, table in TABLES[file].items():
    begin = _BEGIN.format(name)
    before, rest = text.split(begin)
    _, after = rest.split(_END, 1)
    text = f"{before}{begin}\n\n{table()}\n\n{_END}{after}"
  return text


if __name__ == "__main__":
  for file in TABLES:
    (ROOT / file).write_text(updated(file))
    print(f"wrote {file}")
