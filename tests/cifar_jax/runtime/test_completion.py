"""Completion of the command line, in a real bash."""

import pathlib
import subprocess
import sys

import pytest

from cifar_jax.runtime import completion

SCRIPT = completion.script(
  ["train", "evaluate", "export"], ["--config=", "--mode=", "--json"], ["seed", "model.name"]
)


def complete(*words):
  """Return what bash proposes for the last of these words."""
  quoted = " ".join(f"'{word}'" for word in ("cifar-jax", *words))
  lines = [f"COMP_WORDS=({quoted})", f"COMP_CWORD={len(words)}", "_cifar_jax"]
  program = "\n".join([SCRIPT, *lines, 'echo "${COMPREPLY[*]}"'])
  done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
  return done.stdout.split()


@pytest.mark.parametrize(
  ("words", "proposals"),
  [
    (["e"], ["evaluate", "export"]),
    (["train", "--j"], ["--json"]),
    (["train", "--config.m"], ["--config.model.name="]),
    (["--mode", "=", "t"], ["train"]),
    (["--mode", "="], ["train", "evaluate", "export"]),
  ],
)
def test_modes_flags_and_fields_are_proposed(words, proposals):
  assert complete(*words) == proposals


def test_configs_are_python_files(tmp_path):
  for name in ("one.py", "one.txt"):
    (tmp_path / name).touch()
  assert complete("train", "--config", "=", f"{tmp_path}/o") == [f"{tmp_path}/one.py"]


def test_shellcheck_accepts_the_script(tmp_path):
  path = tmp_path / "completion.bash"
  path.write_text(SCRIPT)
  in_environment = pathlib.Path(sys.executable).parent / "shellcheck"
  program = str(in_environment) if in_environment.exists() else "shellcheck"
  # SC2207: splitting at blanks is what compgen's output is for.
  options = ["--shell=bash", "--exclude=SC2207"]
  done = subprocess.run([program, *options, str(path)], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
