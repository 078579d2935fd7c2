"""docs/own_experiment.md, followed step by step in a copy of the checkout."""

import json
import re
import shutil

import small_runs

PAGE = small_runs.ROOT / "docs" / "own_experiment.md"
_STEP = re.compile(r"^(New file|At the end of) `([\w/.]+)`:\n\n```python\n(.*?)^```$", re.M | re.S)


def test_the_page_step_by_step(tmp_path):
  checkout = tmp_path / "checkout"
  left_out = shutil.ignore_patterns(".*", "__pycache__", "results", "_build", "gallery", "tests")
  shutil.copytree(small_runs.ROOT, checkout, ignore=left_out)
  kernels = small_runs.ROOT / "cifar_jax" / "kernels" / "_build"
  if kernels.exists():  # compiled already
    shutil.copytree(kernels, checkout / "cifar_jax" / "kernels" / "_build")
  steps = _STEP.findall(PAGE.read_text())
  assert len(steps) == 6
  for kind, path, code in steps:
    assert (kind == "New file") == (not (checkout / path).exists()), path
    with (checkout / path).open("a") as file:
      file.write(code if kind == "New file" else f"\n\n{code}")
  (command,) = re.findall(r"^python (main\.py --config.*)$", PAGE.read_text(), re.M)
  workdir = tmp_path / "run"
  arguments = command.replace("/tmp/my_experiment", str(workdir)).split()
  python = small_runs.command(tmp_path, workdir)[0]
  data_dir = f"--config.data.dir={tmp_path / 'data'}"
  done = small_runs.run([python, *arguments, data_dir], cwd=checkout)
  assert done.returncode == 0, done.stderr
  summary = json.loads((workdir / "results.json").read_text())
  assert (summary["model"], summary["data"]["name"]) == ("patch_net", "stripes")
  assert summary["test_accuracy"] > 0.9  # the directions of stripes are easy
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert rows[0]["learning_rate"] > rows[-1]["learning_rate"] > 0.01 * 0.05
