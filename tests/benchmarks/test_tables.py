"""The generated tables of README.md and docs/."""

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
  assert row.endswith("| 91.5–93 % validation | not run |  |  |  |  |")


def test_a_recorded_run_has_its_figures_and_links_to_its_config():
  row = next(line for line in tables.accuracy().splitlines() if "[airbench94]" in line)
  assert "(../configs/airbench94.py)" in row
  assert "93.4 % test, 94.2 % test with multicrop" in row


def test_speed_names_the_peers_and_the_processor():
  assert "PyTorch (" in tables.speed() and "AMD EPYC" in tables.speed()
