"""A stand-in for train.train_and_evaluate: writes the files of a run, epoch by epoch, untrained.

As a program it is a worker of a sweep: stand_in_training.py DATA SWEEP_FOLDER TEXT [TRIAL EPOCH].
With a trial and an epoch, it kills itself there.
"""

import math
import os
import pathlib
import signal
import sys
import time

import experiment
import train
from cifar_jax.runs.run_folder import RunFolder
from configs import default


def accuracy(config, epoch):
  """Return a validation accuracy that is best for a learning rate of 0.1, and rises by epoch."""
  return (1 - abs(math.log10(config.optimizer.learning_rate) + 1) / 4) * (1 - 0.5**epoch)


def trained_epochs(sweep_folder):
  """Return the (trial, epoch) that were trained, in order."""
  file = pathlib.Path(sweep_folder) / "trained"
  lines = file.read_text().splitlines() if file.exists() else []
  return [(name, int(epoch)) for name, epoch in (line.split() for line in lines)]


def stand_in(config, workdir, evaluate_test, pause, after_epoch=lambda name, epoch: None):
  """Take up to num_epochs epochs; `after_epoch` may raise or end the process."""
  assert not evaluate_test
  config, folder = experiment.resolve(config), RunFolder(workdir)
  with folder.locked():
    folder.raise_if_other_config(config, default.get_config())
    if folder.results() is not None:
      return
    folder.write_config(config)
    rows = folder.metrics()
    while len(rows) < config.num_epochs:
      if rows and pause(rows):
        raise train.Paused
      metrics = {"val_accuracy": accuracy(config, len(rows) + 1), "val_loss": 1.0}
      rows.append({"epoch": len(rows) + 1, "seconds": 1.0} | metrics)
      folder.write_metrics(rows)
      with open(folder.path.parents[1] / "trained", "a") as file:
        file.write(f"{folder.path.name} {len(rows)}\n")
      after_epoch(folder.path.name, len(rows))
    figures = {name: rows[-1][name] for name in ("val_accuracy", "val_loss")}
    run = {"epochs_run": len(rows), "seconds_to_train": 1.0 * len(rows), "best_epoch": len(rows)}
    folder.write_results(figures | run)


def main(data, folder, text, doomed="", epoch="0"):
  """Run a worker; the first trial waits until another worker has begun one, too."""
  import small_runs

  from tuning import sweep

  def after_epoch(name, num_epochs):
    while len({trial for trial, _ in trained_epochs(folder)}) < 2:
      time.sleep(0.01)
    if (name, num_epochs) == (doomed, int(epoch)):
      os.kill(os.getpid(), signal.SIGKILL)

  train.train_and_evaluate = lambda *args, **options: stand_in(
    *args, **options, after_epoch=after_epoch
  )
  sweep.panel.draw_curves = lambda *_: True
  config = small_runs.config(pathlib.Path(data), num_epochs=3)
  sweep.run_sweep(sweep.parse(text), config, folder)


if __name__ == "__main__":
  main(*sys.argv[1:])
