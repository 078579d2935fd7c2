"""The package: an install has one top-level name, and its command runs main.py of the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import setuptools
import small_runs

SETTINGS = tomllib.loads((small_runs.ROOT / "pyproject.toml").read_text())


def test_an_install_has_one_top_level_name():
  find = SETTINGS["tool"]["setuptools"]["packages"]["find"]
  packages = setuptools.find_namespace_packages(str(small_runs.ROOT), **find)
  assert {package.split(".")[0] for package in packages} == {"cifar_jax"}
  folders = {path.parent for path in (small_runs.ROOT / "cifar_jax").rglob("*.py")}
  assert len(folders) > 5
  names = {".".join(folder.relative_to(small_runs.ROOT).parts) for folder in folders}
  assert names <= set(packages)


def run_command(path: pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
  """Run `cifar-jax`, as its entry point in pyproject.toml does, with `cifar_jax` in `path`."""
  module, function = SETTINGS["project"]["scripts"]["cifar-jax"].split(":")
  script = cwd / "cifar-jax"
  script.write_text(f"from {module} import {function}\n{function}()\n")
  # Python runs sitecustomize whenever it starts.
  (cwd / "sitecustomize.py").write_text("import sys; print('started', file=sys.stderr)")
  environment = {name: v for name, v in os.environ.items() if name != "GLIBC_TUNABLES"}
  environment |= {"PYTHONPATH": f"{cwd}:{path}", "JAX_PLATFORMS": "cpu"}
  return subprocess.run(
    [sys.executable, str(script), "--mode=evaluate"],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=environment,
  )


def test_the_command_runs_main_and_restarts_as_it_does(tmp_path):
  done = run_command(small_runs.ROOT, tmp_path)
  assert done.returncode == 1
  *starts, line = done.stderr.splitlines()
  assert starts == ["started"] * (2 if sys.platform == "linux" else 1)
  assert line.startswith("error: --workdir: missing")


def test_outside_a_checkout_the_command_says_so(tmp_path):
  shutil.copytree(small_runs.ROOT / "cifar_jax", tmp_path / "site" / "cifar_jax")
  done = run_command(tmp_path / "site", tmp_path)
  assert done.returncode == 1
  _, line = done.stderr.splitlines()
  assert line.startswith(f"error: cifar-jax: {tmp_path / 'site'} is not a checkout")
