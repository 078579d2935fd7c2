"""The trainings that are still to be recorded: which they are, and how they run and end."""

import json
import textwrap
import time

import pytest
from fakes import fake_dataset

import input_pipeline
from benchmarks import missing_records, tables
from cifar_jax import errors

# Stands in for main.py: `fails` fails, `waits` trains until SIGTERM, the others finish at once.
MAIN = """
import json, pathlib, signal, sys, time
options = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
workdir = pathlib.Path(options["workdir"])
workdir.mkdir(parents=True)
if workdir.name == "fails":
  sys.exit(2)
if workdir.name == "waits":
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  (workdir / "metrics.jsonl").write_text('{"epoch": 1}\\n{"epoch": 2}\\n')
  time.sleep(60)
for name in ("config.json", "metrics.jsonl", "results.json"):
  (workdir / name).write_text(json.dumps(options))
"""


@pytest.fixture
def folders(tmp_path, monkeypatch):
  """Use the stand-in; return the folders of runs and of records."""
  (tmp_path / "main.py").write_text(textwrap.dedent(MAIN))
  monkeypatch.setattr(tables, "ROOT", tmp_path)
  monkeypatch.setattr(missing_records, "_POLL_SECONDS", 0.05)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  return tmp_path / "runs", tmp_path / "results"


def test_finished_runs_are_recorded_and_a_failure_stops_no_other(folders, capsys):
  runs, results = folders
  names = ["report000_a", "fails", "b"]
  missing_records.train_all(names, runs, results, ["--extra=1"], time.monotonic() + 60)
  assert sorted(path.name for path in results.iterdir()) == ["b", "report000_a"]
  flags = json.loads((results / "report000_a" / "results.json").read_text())
  assert flags["config"].endswith("configs/reproductions/report000_a.py")
  assert (flags["config.evaluate_train"], flags["extra"]) == ("True", "1")
  assert sorted(path.name for path in (results / "b").iterdir()) == sorted(
    missing_records.RECORD_FILES
  )
  assert "fails: failed with exit code 2; see " in capsys.readouterr().out


def test_when_the_time_is_over_a_training_is_asked_to_save(folders, capsys):
  runs, results = folders
  start = time.monotonic()
  missing_records.train_all(["waits"], runs, results, [], start + 2)
  assert time.monotonic() - start < 30
  assert not results.exists()
  assert "waits: stopped after epoch 2; the same command resumes it" in capsys.readouterr().out


def test_missing_configs_are_ordered_by_their_cost_and_the_impossible_come_last(
  tmp_path, monkeypatch
):
  def load(config):
    if config.data.name == "cifar100":
      raise errors.UserError("cifar100: no source has it; see docs/data.md")
    return fake_dataset(train=5120, test=160)

  monkeypatch.setattr(input_pipeline, "load", load)
  (tmp_path / "report004_b").mkdir()
  (tmp_path / "report004_b" / "results.json").write_text("{}")
  names = ["report001_vgg16_frozen", "report003_cifar100", "resnet18", "report004_b", "report004_a"]
  missing = missing_records.find_missing(names, tmp_path)
  assert [config.name for config in missing] == [
    "report004_a",
    "resnet18",
    "report001_vgg16_frozen",
    "report003_cifar100",
  ]
  assert missing[-2].reason.startswith("name the file of the weights")
  last_line = missing_records.describe(missing).splitlines()[-1]
  assert last_line.split(maxsplit=1) == ["report003_cifar100", missing[-1].reason]
