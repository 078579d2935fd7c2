"""--mode=verify: train a config several times, and report where this machine gives the same bits.

The config is shortened to a few batches and epochs; network, batch size, augmentation and dtype
stay the same. Each training is a process (processes.py). The comparisons are

  again      the first training against the same training again,
  resumed    against one that is stopped by SIGKILL and SIGTERM at random moments and resumed,
  devices    against one on another number of devices,
  seeds      the seeds of one program against trainings of one seed each.

The project promises the same bits for the first two, on GPUs with the flags of `FLAGS`. Another
number of devices sums in another order, and a program of several seeds is another program, so these
two may round differently.

"The same to rounding" is measured, not assumed. A difference that comes from rounding is smaller in
a dtype of higher precision; one that comes from another computation is not. So where bits differ,
both trainings are repeated in float32 for `_SHORT` steps, and so is the first one with images whose
last bit changes at random in every step (perturbed.py). The difference that this makes to the
weights is the yardstick: up to `_FACTOR` times it counts as rounding, because a network rounds in
every layer and not only at its input. The steps are few because training multiplies any difference
in every step (docs/trust.md has figures). A fault of bfloat16 alone is not detected this way.
"""

import dataclasses
import os
import pathlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import ml_collections

import input_pipeline
from cifar_jax import errors
from cifar_jax.config import check_config
from cifar_jax.data.cache import Dataset
from cifar_jax.runs import run_folder
from cifar_jax.runtime.console import log
from cifar_jax.types import Row
from configs import default
from trust import differences, processes, verdicts
from trust.differences import ComparedRun
from trust.processes import Job
from trust.short_config import shorten
from trust.verdicts import DIFFERENT, ROUNDING, SAME, Line

# The XLA flags that ask for the same bits, by platform; a CPU needs none (docs/determinism.md).
FLAGS = {"gpu": ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")}
_FACTOR = 10.0
_SHORT = 2  # steps
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
_TRAININGS = 10  # roughly, after the first


# A training, and the index of the seed to compare; None for its only one.
_Training: TypeAlias = tuple[Job, int | None]


def verify(
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  epochs: int = 2,
  batches: int = 8,
  finish: Callable[[Job], None] = processes.finish,
  interrupt: Callable[..., bool] = processes.interrupt,
) -> Row:
  """Train repeatedly below `folder`, compare, and return the outcome.

  Args:
    config: the experiment.
    folder: an empty folder, or one that does not exist.
    epochs, batches: the length of each training.
    finish, interrupt: train like the functions of these names in processes.py.

  Returns:
    'text' to print; 'holds', whether every promise holds; 'lines', the comparisons.

  Raises:
    UserError: the folder is not empty, the config is invalid, or a training failed.
  """
  check_config(config, default.get_config())
  if folder.exists() and any(folder.iterdir()):
    raise errors.UserError(f"workdir: {folder} is not empty; pass another folder")
  dataset = input_pipeline.load(config)
  short = shorten(config, epochs, batches, dataset)
  return _Verification(short, folder, dataset, finish, interrupt).run()


class _Verification:
  """The trainings and comparisons of one call of `verify`."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    finish: Callable[[Job], None],
    interrupt: Callable[..., bool],
  ):
    self._config, self._folder, self._dataset = config, folder, dataset
    self._finish, self._interrupt = finish, interrupt
    self._first = Job(config, folder / "first")
    self._short: dict[str, Job] = {}  # short trainings by the name of their run folder

  def run(self) -> Row:
    """Train, compare, and return what `verify` returns."""
    started = time.monotonic()
    self._train(self._first)
    seconds = time.monotonic() - started
    minutes = _TRAININGS * seconds / 60
    log.info("this took %.0f s; the other trainings take about %.1f minutes", seconds, minutes)
    self._device = _results(self._first)["device"]
    lines = [self._again(), self._resumed(), self._devices(), *self._seeds()]
    flags_text = ""
    if not all(line.holds for line in lines if line.is_promised) and self._flags():
      lines, flags_text = self._with_flags(lines)
    text = self._describe(lines, flags_text)
    log.info("%.0f s", time.monotonic() - started)
    return {"text": text, "holds": all(line.holds for line in lines), "lines": lines}

  def _again(self) -> Line:
    job = self._job("again")
    self._train(job)
    return self._line("trained again", job, True)

  def _resumed(self) -> Line:
    job = self._job("resumed")
    kills = self._disturb(job)
    name = f"stopped {len(kills)} times and resumed"
    return self._line(name, job, True, at_end=True)._replace(note=", ".join(kills))

  def _disturb(self, job: Job) -> list[str]:
    """Stop a training at random moments, finish it, and return how it was stopped."""
    window, kills = 0.9 * _seconds_of_training(self._first), list[str]()
    for number in _SIGNALS:
      delay = random.uniform(0, window)
      log.info("%s: training, with %s after %.1f s", job.workdir.name, number.name, delay)
      if not self._interrupt(job, number, _after(delay)):
        break
      kills.append(f"{number.name} in epoch {min(job.num_epochs + 1, job.config.num_epochs)}")
    self._train(job)
    return kills

  def _devices(self) -> Line:
    here = self._device["count"]
    count = 2 if here == 1 else 1
    name = f"{count} device{'s' if count > 1 else ''} instead of {here}"
    if self._device["platform"] != "cpu":
      return Line(name, "", False, None, "virtual devices exist only on CPU")
    if self._config.batch_size % count or self._config.proxy.keep % count:
      return Line(name, "", False, None, f"the batch does not divide over {count} devices")
    job = self._job("devices", xla_flags=processes.virtual_devices(count))
    self._train(job)
    return self._line(name, job, False)

  def _seeds(self) -> Iterator[Line]:
    """Yield the comparisons of the first and last seed of one program with each trained alone."""
    first_seed, num_seeds = self._config.seed, max(2, self._config.num_seeds)
    together = self._train_seeds("seeds", first_seed, num_seeds)
    for index in (0, num_seeds - 1):
      seed = first_seed + index
      alone = self._train_seeds(f"seed_{seed}", seed, 1)
      name = f"seed {seed} with {num_seeds} seeds in one program"
      yield self._compare(name, (alone, None), (together, index), False)

  def _train_seeds(self, name: str, seed: int, num_seeds: int) -> Job:
    """Return a training of the seeds from `seed` on: the first one if it has them, or another."""
    if (seed, num_seeds) == (self._config.seed, self._config.num_seeds):
      return self._first
    job = self._job(name)
    job.config.seed, job.config.num_seeds = seed, num_seeds
    self._train(job)
    return job

  def _with_flags(self, lines: list[Line]) -> tuple[list[Line], str]:
    """Judge the promises by trainings with the platform's flags; also return the flags' cost."""
    flags = " ".join(self._flags())
    once, again = (self._job(name, xla_flags=flags) for name in ("flags", "flags_again"))
    for job in (once, again):
      self._train(job)
    line = self._compare(f"trained again, with {flags}", (once, None), (again, None), True)
    resumed = self._job("flags_resumed", xla_flags=flags)
    kills = ", ".join(self._disturb(resumed))
    resumed_line = self._compare("the same, resumed", (once, None), (resumed, None), True, True)
    speed = _images_per_second(once) / _images_per_second(self._first)
    lines = [line._replace(is_promised=False) if line.is_promised else line for line in lines]
    text = f"{flags}: {speed:.2f} times the speed of this training without them"
    return [*lines, line, resumed_line._replace(note=kills)], text

  def _flags(self) -> list[str]:
    """Return the flags of this platform that are not set."""
    current = os.environ.get("XLA_FLAGS", "")
    return [flag for flag in FLAGS.get(self._device["platform"], ()) if flag not in current]

  def _line(self, name: str, job: Job, is_promised: bool, at_end: bool = False) -> Line:
    return self._compare(name, (self._first, None), (job, None), is_promised, at_end)

  def _compare(
    self, name: str, a: _Training, b: _Training, is_promised: bool, at_end: bool = False
  ) -> Line:
    """Compare two trainings.

    Args:
      at_end: measure a difference at the end, because no short training can reproduce its cause.
    """
    runs = [ComparedRun(job.workdir, seed) for job, seed in (a, b)]
    difference = differences.compare(*runs)
    verdict = SAME
    if not difference.is_same:
      log.info("%s: the bits differ; measuring by how much", name)
      if not at_end:
        runs = [ComparedRun(self._shorten(job).workdir, seed) for job, seed in (a, b)]
        difference = difference._replace(weights=differences.distance(*runs))
      largest = _FACTOR * self._yardstick(at_end)
      verdict = ROUNDING if difference.weights <= largest else DIFFERENT
    log.info("%s: %s", name, verdict)
    return Line(name, verdict, is_promised, difference, "")

  def _yardstick(self, at_end: bool = False) -> float:
    """Return how far a change of the images' last bit moves the weights of a training."""
    reference = self._first
    perturbed = dataclasses.replace(self._job("perturbed"), program="trust.perturbed")
    if not at_end:
      reference, perturbed = self._shorten(reference), self._shorten(perturbed)
    elif not perturbed.workdir.exists():
      self._train(perturbed)
    return differences.distance(ComparedRun(reference.workdir), ComparedRun(perturbed.workdir))

  def _shorten(self, job: Job) -> Job:
    """Return a training of only a few steps of `job`, in float32; run it on the first call."""
    name = f"{job.workdir.name}_short"
    if name not in self._short:
      config = shorten(job.config, 1, _SHORT, self._dataset)
      config.dtype = "float32"
      # Weights must move from the first step: no warm-up, and no slow weights.
      config.schedule = ml_collections.ConfigDict({"name": "constant"})
      config.lookahead.every = 0
      short = dataclasses.replace(job, config=config)
      self._short[name] = dataclasses.replace(short, workdir=self._folder / name)
      self._train(self._short[name])
    return self._short[name]

  def _job(self, name: str, xla_flags: str = "") -> Job:
    """Return a further training of the first one's config."""
    return Job(self._config.copy_and_resolve_references(), self._folder / name, xla_flags)

  def _train(self, job: Job) -> None:
    log.info("%s: training", job.workdir.name)
    self._finish(job)

  def _describe(self, lines: list[Line], flags_text: str) -> str:
    """Return the table, its explanation and the conclusion as text."""
    config, device = self._config, self._device
    steps = differences.metrics(ComparedRun(self._first.workdir))[0]["step"]
    title = (
      f"{config.model.name}, {_results(self._first)['dtype']}, {config.num_epochs} epochs of "
      f"{steps} batches of {config.batch_size}, on {device['count']} × {device['kind']}"
    )
    notes = []
    if self._short:
      notes.append(
        f"difference: the relative difference of the weights after {_SHORT} steps in float32. The "
        f"last bit of the images causes {self._yardstick():.1e}; up to {_FACTOR:g} times that "
        "counts as rounding."
      )
    if flags_text:
      notes.append(f"flags for the same bits: {flags_text}")
    elif device["platform"] not in FLAGS:
      notes.append(f"flags for the same bits: {device['platform']} needs none")
    return verdicts.describe(title, lines, notes)


def _after(seconds: float) -> Callable[[], bool]:
  """Return a function that returns whether `seconds` have passed since its first call."""
  first_call: float | None = None

  def is_time() -> bool:
    nonlocal first_call
    now = time.monotonic()
    if first_call is None:
      first_call = now
    return now - first_call >= seconds

  return is_time


def _results(job: Job) -> Row:
  """Return results.json of a finished training."""
  results = run_folder.RunFolder(job.workdir, writer=False).results()
  if results is None:
    raise errors.UserError(f"{job.workdir}: the training ended without results.json; see {job.log}")
  return results


def _seconds_of_training(job: Job) -> float:
  """Return the seconds from the start of the first epoch to the end of a finished training."""
  start, end = (job.workdir / name for name in ("config.json", "results.json"))
  return end.stat().st_mtime - start.stat().st_mtime


def _images_per_second(job: Job) -> float:
  """Return the speed of the last epoch, which compiles nothing."""
  return run_folder.RunFolder(job.workdir, writer=False).metrics()[-1]["images_per_second"]
