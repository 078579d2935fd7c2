"""Failed file operations below a save and a restart; benchmarks.robustness.checkpoint_faults."""

import json
import shutil
import subprocess
import sys

import pytest
import small_runs


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_failed_operation_costs_a_checkpoint(tmp_path):
  command = [sys.executable, "-m", "benchmarks.robustness.checkpoint_faults"]
  command += ["--every=37", f"--output={tmp_path / 'record.json'}"]  # of all, for time
  completed = subprocess.run(command, cwd=small_runs.ROOT, capture_output=True, text=True)
  assert completed.returncode == 0, completed.stderr
  rows = json.loads((tmp_path / "record.json").read_text())["rows"]
  assert len(rows) == 8
  assert all(row["times"] == row["kept"] > 0 for row in rows)
