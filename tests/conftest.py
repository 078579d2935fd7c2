"""Settings of all tests: JAX on the CPU as eight devices, and Keras, the oracle, on JAX."""

import contextlib
import logging
import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["KERAS_BACKEND"] = "jax"
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
  os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("NPROC", "64")  # fewer threads than devices can deadlock, see startup.py


@pytest.fixture
def log_lines(monkeypatch):
  """The lines that the project logs at level INFO and above."""
  from cifar_jax.runtime import console

  lines: list[str] = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  monkeypatch.setattr(console.log, "handlers", [handler])
  level = console.log.level
  console.log.setLevel(logging.INFO)  # unlike monkeypatch, setLevel clears the logger's cache
  yield lines
  console.log.setLevel(level)


@pytest.fixture
def drawn(monkeypatch):
  """The matplotlib figures that were drawn."""
  from cifar_jax.runs import plots

  figures = []
  original = plots.figure

  @contextlib.contextmanager
  def keep(*arguments, **options):
    with original(*arguments, **options) as (canvas, axes):
      yield canvas, axes
      figures.append(canvas)

  monkeypatch.setattr(plots, "figure", keep)
  return figures


@pytest.fixture(scope="module")
def one_step_data(tmp_path_factory):
  """A data folder for one_step_runs, whose programs compile once and whose runs draw nothing."""
  import one_step_runs

  from cifar_jax.runs import plots

  one_step_runs.register_model()
  programs = tmp_path_factory.mktemp("programs")
  with pytest.MonkeyPatch.context() as patch, one_step_runs.compiled_once(programs):
    patch.setattr(plots.LearningCurves, "draw", lambda *_, **__: None)
    yield tmp_path_factory.mktemp("data")


@pytest.fixture
def quick_compilation():
  """Compile with fewer optimizations, as small_runs.quick_compilation does."""
  import small_runs

  with small_runs.quick_compilation():
    yield
