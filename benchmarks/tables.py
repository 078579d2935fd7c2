"""Write the tables of README.md and docs/ from the records in benchmarks/results/.

  python -m benchmarks.tables

rewrites every table between a `<!-- NAME made by python -m benchmarks.tables -->` comment and the
next `<!-- end -->`. The record of a run is a folder with the name of its config; the folder holds
config.json, metrics.jsonl and results.json. A config without a record is "not run"; if a config has
changed since its record was made, the record's row says how. The record of a benchmark is a file in
benchmarks/results/speed/.
"""

import importlib
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import ml_collections

from analysis.model_card import wilson_interval
from benchmarks import records
from cifar_jax import config
from cifar_jax.runs import test_uses
from cifar_jax.runs.run_folder import HISTORY
from configs import default

ROOT = pathlib.Path(__file__).parent.parent
RECORDS = ROOT / "benchmarks" / "results"
# Fields that change no result: of the machine, of further evaluations, and the number of seeds.
_MACHINE_FIELDS = (
  "checkpoint_every",
  "data.dir",
  "data.resident_bytes",
  "data.source",
  "data.workers",
  "dtype",  # in results.json
  "eval_batch_size",
  "evaluate_train",
  "keep_every",
  "num_seeds",
  "steps_per_dispatch",
)
_MOST_CHANGES = 4  # that a row lists
_BEGIN, _END = "<!-- {} made by python -m benchmarks.tables -->", "<!-- end -->"

_MEASURED = ("ours", "selected on", "seeds", "epochs", "dtype", "device")  # columns
# The runs that README.md shows; docs/results.md has all.
_HEADLINES = (
  "quickstart",
  "airbench94",
  "airbench95",
  "report000_simple_cnn",
  "report004_a",
)


# --- Accuracy ------------------------------------------------------------------------------------


def headlines() -> str:
  """Return the table of the most important runs, with links as seen from README.md."""
  rows = [[_config_link(name, ROOT), published(name), *_result_cells(name)] for name in _HEADLINES]
  return _table(["config", "published", *_MEASURED], rows)


def accuracy() -> str:
  """Return two tables: every recipe, then every reproduction with its report's figure."""
  tables = []
  for folder, column in (("configs", "published"), ("configs/reproductions", "report")):
    rows = [
      [_config_link(name, ROOT / "docs"), published(name), *_result_cells(name)]
      for name in config_names(folder)
    ]
    tables.append(_table(["config", column, *_MEASURED], rows))
  return "\n\n".join(tables)


def config_names(folder: str) -> list[str]:
  """Return the names of the experiments in a folder of the repository."""
  files = sorted((ROOT / folder).glob("*.py"))
  return [file.stem for file in files if file.stem not in ("__init__", "default")]


def _config_module(name: str) -> str:
  folder = "configs.reproductions" if name.startswith("report") else "configs"
  return f"{folder}.{name}"


def _config_link(name: str, folder: pathlib.Path) -> str:
  """Return a Markdown link to a config, relative to the `folder` of the document."""
  path = pathlib.PurePath(os.path.relpath(config_file(name), folder))
  return f"[{name}]({path.as_posix()})"


def config_file(name: str) -> pathlib.Path:
  """Return the file of a config."""
  return ROOT / (_config_module(name).replace(".", "/") + ".py")


def _module(name: str) -> ModuleType:
  return importlib.import_module(_config_module(name))


def load_config(name: str) -> ml_collections.ConfigDict:
  """Return the config of that name."""
  return _module(name).get_config()


def published(name: str) -> str:
  """Return the published or reported figures that a config names; '' if it names none."""
  return getattr(_module(name), "REPORTED", "")


def _result_cells(name: str) -> list[str]:
  """Return the columns `_MEASURED` for one recorded run."""
  file = RECORDS / name / "results.json"
  if not file.exists():
    needs = _missing_files(name)
    reason = f"not run: needs {needs}" if needs else "not run yet"
    return [reason, *[""] * (len(_MEASURED) - 1)]
  results = json.loads(file.read_text())
  changed = _changed_fields(name)
  note = f", made with {', '.join(changed)}" if changed else ""
  if len(changed) > _MOST_CHANGES:
    note = f", made with another config ({len(changed)} fields differ)"
  data = results["data"]
  if data["name"] == "cats_vs_dogs":  # the number of photos depends on the folder
    counts = " + ".join(f"{data[f'{part}_examples']:,}" for part in ("train", "validation", "test"))
    note = f", with {counts} photos{note}"
  return [
    _accuracies(results) + note,
    results["selected_on"],
    str(len(results["seeds"])),
    str(results["epochs_run"]),
    results.get("dtype", "float32"),  # older records lack it: CPUs had only float32
    _device(results["device"]),
  ]


def _missing_files(name: str) -> str:
  """Return the files that a config needs and this project's machines lack; '' for none."""
  experiment = load_config(name)
  if experiment.data.name.startswith("cifar100"):
    return "CIFAR-100"
  return "ImageNet's weights" if experiment.model.get("pretrained") else ""


def _changed_fields(name: str) -> list[str]:
  """Return the record's 'field=value' for each field that now has another value in the config.

  Records older than a field were made with its default.
  """
  record = json.loads((RECORDS / name / "config.json").read_text())
  defaults = config.flatten(config.as_json(default.get_config()))
  old = defaults | config.flatten(record)
  new = config.flatten(config.as_json(load_config(name)))
  return [
    f"{field}={_value_text(old.get(field))}"
    for field in sorted(old.keys() | new.keys())
    if old.get(field) != new.get(field) and field not in (*_MACHINE_FIELDS, *HISTORY)
  ]


def _value_text(value: object) -> str:
  return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _accuracies(results: dict[str, Any]) -> str:
  parts = []
  counts = {"test": "test_examples", "test_tta": "test_examples", "val": "validation_examples"}
  splits = {"test": "test", "test_tta": f"test with {results.get('tta')}", "val": "validation"}
  if "test_uses" in results:  # records from before uses were counted lack it
    splits["test"] += f" ({test_uses.describe(results['test_uses'], 'images')})"
  for split, label in splits.items():
    if results.get(f"{split}_accuracy") is not None:
      accuracy = results[f"{split}_accuracy"]
      text = f"{100 * accuracy:.1f}"
      if f"{split}_accuracy_standard_error" in results:
        text += f" ± {100 * results[f'{split}_accuracy_standard_error']:.1f}"
      elif count := results.get("data", {}).get(counts[split]):
        low, high = wilson_interval(accuracy, count)
        text += f" ({100 * low:.1f}–{100 * high:.1f})"
      parts.append(f"{text} % {label}")
  return ", ".join(parts)


def _device(device: dict[str, Any]) -> str:
  if device["platform"] == "cpu" and device["count"] == 1:
    cores = device["cpu_cores"]
    return f"{cores} CPU core{'s' if cores > 1 else ''}"
  return f"{device['count']} × {device['kind']}"


# --- Speed ---------------------------------------------------------------------------------------


def speed() -> str:
  """Return the table of training steps: ours, and the ratio to each peer."""
  return _compared("train_step_*.json", "ours, ms per step")


def prediction() -> str:
  """Return the table of predictions of a batch: ours, and the ratio to each peer."""
  return _compared("predict_*.json", "ours, ms per batch")


def _compared(pattern: str, what: str) -> str:
  """Return a table of the records that match `pattern`; each is of one network and its peers."""
  header = [
    "network",
    "batch",
    "dtype",
    "device",
    what,
    "ratio to each peer",
    "date",
  ]
  rows = []
  for file in sorted((RECORDS / "speed").glob(pattern)):
    record = json.loads(file.read_text())
    ours, *peers = record["rows"]
    ratios = [
      f"{peer['side']} ({peer['step ms']:.4g} ms): {peer['ours / it']['median']:.2f}"
      for peer in peers
      if peer.get("ours / it")
    ]
    environment = record["environment"]
    device = _device(environment["sides"]["ours"]["device"])
    if "CPU" in device:
      kernels = environment["sides"]["ours"]["device"]["instruction_set"]
      device += f", {environment['processor']}, {kernels}"
    if record["options"].get("limit_to"):
      device += " (limited)"
    cells = [ours["model"], str(ours["batch"]), ours["dtype"], device, f"{ours['step ms']:.4g}"]
    rows.append([*cells, ", ".join(ratios), environment["date"][:10]])
  return _table(header, rows)


def headline_speed() -> str:
  """Return the row of ResNet-18, in bfloat16 if it was measured, as a sentence."""
  names = ("train_step_resnet18_bfloat16.json", "train_step_resnet18_float32.json")
  file = next(file for name in names if (file := RECORDS / "speed" / name).exists())
  record = json.loads(file.read_text())
  ours, *peers = record["rows"]
  eager = {"PyTorch": "PyTorch eager"}
  ratios = [
    f"{peer['ours / it']['median']:.2f} of the time of {eager.get(peer['side'], peer['side'])}"
    for peer in peers
    if peer.get("ours / it")
  ]
  device = _device(record["environment"]["sides"]["ours"]["device"])
  return (
    f"On {device} a training step of ResNet-18 (batch {ours['batch']}, {ours['dtype']}) takes "
    f"{ours['step ms']:.0f} ms: {', '.join(ratios)}."
  )


def convolutions() -> str:
  """Return the table of the time of a step, and of its convolutions alone."""
  rows = []
  for file in sorted((RECORDS / "speed").glob("conv_floor_*.json")):
    record = json.loads(file.read_text())
    total = record["rows"][-1]
    step, alone = statistics.median(total["step_seconds"]), total["convolution_seconds"]
    name = file.stem.removeprefix("conv_floor_")
    rows.append([name, f"{1e3 * step:.4g}", f"{1e3 * alone:.4g}", f"{alone / step:.0%}"])
  return _table(["network", "step, ms", "convolutions alone, ms", "share"], rows)


def costs() -> str:
  """Return the table of what input, start-up and several seeds at once cost."""
  rows = []
  for row in _record_rows("input_cost"):
    if row["input"] == "augmented":
      spread = f"{row['lowest %']:.1f} to {row['highest %']:.1f}"
      cost = f"{row['cost %']:.1f} % of a step ({spread} in single rounds)"
      rows.append(_cost_cells("input: gather, crop, flip, normalise", row, cost))
  starts = (
    ("first start on a machine: fetch and prepare CIFAR-10, compile", "startup_prepare", "cold"),
    ("first start of a network: compile everything", "startup", "cold"),
    ("second start", "startup", "warm"),
  )
  for what, benchmark, state in starts:
    row = _record_rows(benchmark)[0]
    begins, ends = row[f"begun {state} s"], row[f"{state} s"]
    cost = f"{begins:.1f} s until the first step begins, {ends:.1f} s until the first step ends"
    rows.append(_cost_cells(what, row, cost))
  for row in _record_rows("seeds")[1:]:
    cost = f"{records.cell_text(row['ratio'])} times as long as one after the other"
    rows.append(_cost_cells(f"{row['seeds']} seeds in one program", row, cost))
  return _table(["what", "network", "batch", "cost"], rows)


def _cost_cells(what: str, row: dict[str, Any], cost: str) -> list[str]:
  return [what, row["model"], str(row["batch"]), cost]


def columns_of(names: str, *columns: str) -> Callable[[], str]:
  """Return a function that makes a table of some columns of a record, or of several."""

  def table() -> str:
    rows = (row for name in names.split() for row in _record_rows(name))
    cells = [[records.cell_text(row.get(column)) for column in columns] for row in rows]
    return _table(columns, cells)

  return table


def _record_rows(benchmark: str) -> list[dict[str, Any]]:
  return json.loads((RECORDS / "speed" / f"{benchmark}.json").read_text())["rows"]


def serving() -> str:
  """Return the table of the server's speed, with the network and the processor."""
  record = json.loads((RECORDS / "speed" / "serve.json").read_text())
  columns = ("side", "clients", "load", "requests/s", "p50 ms", "p95 ms", "p99 ms", "refused")
  environment, rows = record["environment"], record["rows"]
  return (
    f"JPEGs of 320 × 240 pixels for {rows[0]['model']} on {environment['cores']} CPU cores "
    f"({environment['processor']}), which the clients share:\n\n"
    f"{columns_of('serve', *columns)()}"
  )


# --- Documents -----------------------------------------------------------------------------------

_FUZZED = ("target", "files", "read", "refused", "broken", "slowest ms")
# The tables of each file, in order.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
  "README.md": {"headlines": headlines, "speed": headline_speed},
  "docs/results.md": {"accuracy": accuracy},
  "docs/speed.md": {
    "speed": speed,
    "prediction": prediction,
    "utilisation": columns_of(
      "utilisation", "model", "batch", "dtype", "step ms", "TFLOP/s", "peak TFLOP/s", "used %"
    ),
    "convolutions": convolutions,
    "costs": costs,
  },
  "docs/serve.md": {"serving": serving},
  "benchmarks/README.md": {
    "soak": columns_of("soak", "fault", "times", "equal", "kept"),
    "checkpoint_faults": columns_of("checkpoint_faults", "action", "fault", "times", "kept"),
    "fuzz": columns_of("fuzz", *_FUZZED),
    "fuzz_config": columns_of("fuzz_config_check fuzz_config_train fuzz_flags", *_FUZZED),
    "processes": columns_of(
      "processes", "source", "processes", "devices", "steps", "largest difference", "bytes"
    ),
  },
}


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def updated(file: str) -> str:
  """Return the text of a file of TABLES, with its tables made from the records."""
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
