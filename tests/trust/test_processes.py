"""Trainings in other processes; small programs stand for main.py."""

import importlib.util
import os
import signal

import pytest

from cifar_jax import errors
from configs import airbench94, default
from trust import processes

# Writes config.json and one line of metrics.jsonl, then does what the test asks for.
_PROGRAM = """
import pathlib, signal, sys
arguments = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
workdir = pathlib.Path(arguments["workdir"])
workdir.mkdir(exist_ok=True)
(workdir / "config.json").write_text("{}")
with (workdir / "metrics.jsonl").open("a") as file:
  file.write("{}\\n")
"""


@pytest.fixture
def make_job(tmp_path, monkeypatch):
  """A function that returns the job of a program that ends with the given lines."""
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))

  def make(lines: str, **options) -> processes.Job:
    (tmp_path / "program_of_the_test.py").write_text(_PROGRAM + lines)
    workdir = tmp_path / "run"
    return processes.Job(default.get_config(), workdir, program="program_of_the_test", **options)

  return make


def test_finish_waits_for_the_end_and_adds_flags(make_job):
  job = make_job(
    "import os; (workdir / 'flags').write_text(os.environ['XLA_FLAGS'])",
    xla_flags=processes.virtual_devices(3),
  )
  processes.finish(job)
  counts = (job.workdir / "flags").read_text().split("device_count=")[1:]
  assert [count.split()[0] for count in counts] == ["3"]  # in the place of the tests' eight


def test_a_failure_is_its_last_line(make_job):
  with pytest.raises(errors.UserError, match=r"run: the training failed: no batch; see .*run\.log"):
    processes.finish(make_job("sys.exit('no batch')"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interrupt_sends_the_signal_in_time(make_job, number):
  job = make_job("signal.pause()")
  assert processes.interrupt(job, number, lambda: job.num_epochs == 1)


def test_interrupt_says_that_a_training_has_ended_before(make_job):
  assert not processes.interrupt(make_job(""), signal.SIGKILL, lambda: False)


def test_stop_after_epochs_stops_a_longer_run_and_is_done_at_once_the_second_time(make_job):
  job = make_job("signal.pause()")
  processes.stop_after_epochs(job, 1)
  processes.stop_after_epochs(job, 1)
  assert job.num_epochs == 1


def test_no_training_outlives_an_error(make_job):
  job = make_job("import os; (workdir / 'pid').write_text(str(os.getpid())); signal.pause()")

  def fail() -> bool:
    if (job.workdir / "pid").exists():
      raise KeyboardInterrupt
    return False

  with pytest.raises(KeyboardInterrupt):
    processes.interrupt(job, signal.SIGKILL, fail)
  with pytest.raises(ProcessLookupError):
    os.kill(int((job.workdir / "pid").read_text()), 0)


def test_the_config_file_holds_the_same_config(tmp_path, make_job):
  job = make_job("")
  job = processes.Job(airbench94.get_config(), job.workdir, program=job.program)
  processes.finish(job)
  spec = importlib.util.spec_from_file_location("config", tmp_path / "run_config.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert module.get_config().to_dict() == airbench94.get_config().to_dict()
