"""The generated tables of README.md and docs/."""

import json
import re
import shutil

import pytest
import small_runs

from benchmarks import tables


@pytest.mark.parametrize("file", tables.TABLES)
def test_documents_have_the_tables_of_the_records(file):
  assert tables.updated(file) == (small_runs.ROOT / file).read_text(), (
    "run python -m benchmarks.tables"
  )


def test_a_config_without_a_record_is_not_run():
  row = next(
    line for line in tables.accuracy().splitlines() if "[report000_resnet_plateau]" in line
  )
  assert row.endswith("| 91.5–93 % validation | not run yet |  |  |  |  |  |")


def test_a_recorded_run_has_its_figures_and_links_to_its_config():
  row = next(line for line in tables.accuracy().splitlines() if "[airbench94]" in line)
  assert "(../configs/airbench94.py)" in row
  assert "93.4 (92.9–93.8) % test, 94.1 (93.6–94.5) % test with multicrop" in row


@pytest.mark.parametrize(
  ("name", "needs"),
  [("report003_cifar100", "CIFAR-100"), ("report001_vgg16_frozen", "ImageNet's weights")],
)
def test_a_config_that_needs_other_files_says_which(name, needs):
  assert tables._result_cells(name)[0] == f"not run: needs {needs}"


def test_the_headline_compares_with_the_time_of_each_peer():
  sentence = tables.headline_speed()
  assert re.search(r"takes \d+ ms: ", sentence)
  assert re.search(r"\d\.\d\d of the time of PyTorch eager, ", sentence)
  assert re.search(r"\d\.\d\d of the time of PyTorch compiled\.$", sentence)


def test_speed_names_the_peers_and_the_processor():
  assert "PyTorch (" in tables.speed() and "AMD EPYC" in tables.speed()


@pytest.mark.parametrize(
  ("change", "note"),
  [
    ({"dtype": "bfloat16", "eval_batch_size": 7}, ""),  # the machine's choice
    ({"num_epochs": 3}, ", made with num_epochs=3"),
    ({"earlier_num_epochs": [2]}, ""),  # a run that was continued has the same bits
    ({"eval_transform": None, "num_epochs": None}, ", made with num_epochs=10"),  # older fields
  ],
)
def test_a_record_of_another_config_says_so(change, note, tmp_path, monkeypatch):
  folder = tmp_path / "airbench94"
  shutil.copytree(tables.RECORDS / "airbench94", folder)
  config = json.loads((folder / "config.json").read_text()) | change
  config = {field: value for field, value in config.items() if value is not None}
  (folder / "config.json").write_text(json.dumps(config))
  monkeypatch.setattr(tables, "RECORDS", tmp_path)
  if "num_epochs" in change and change["num_epochs"] is None:
    module = tables._module("airbench94")
    longer = module.get_config()
    longer.num_epochs = 12
    monkeypatch.setattr(module, "get_config", lambda: longer)
  row = next(line for line in tables.accuracy().splitlines() if "[airbench94]" in line)
  assert f"| 93.4 (92.9–93.8) % test, 94.1 (93.6–94.5) % test with multicrop{note} |" in row


def test_the_uses_of_test_images_stand_beside_the_accuracy():
  record = {"test_accuracy": 0.941, "test_tta_accuracy": 0.945, "tta": "flip"}
  assert tables._accuracies(record) == "94.1 % test, 94.5 % test with flip"
  counted = tables._accuracies(record | {"test_uses": 3})
  assert counted == "94.1 % test (images used 3 times), 94.5 % test with flip"
