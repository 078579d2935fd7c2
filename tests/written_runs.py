"""Run folders that are written without training, and the small run of the tests of trust/."""

import json
import pathlib

import numpy as np

from cifar_jax.runs import checkpoints

# Fields of small_runs.config.
SMALL = {
  "model__widths": (4,),
  "model__dense": (),
  "augment": "random_crop(padding=2)",
  "loss__l2": (),
  "lookahead__every": 0,
  "tta": "",
}


def write_run(
  path: pathlib.Path, weights: np.ndarray, losses=(2.0, 1.0), **results: object
) -> None:
  """Write the files of a run that --mode=verify compares, with the weights in `latest`.

  Args:
    weights: the only weights; with a leading axis of seeds if `losses` are lists of seeds' losses.
    losses: the training loss of each epoch.
    results: entries of results.json.
  """
  path.mkdir(parents=True)
  (path / "config.json").write_text("{}")
  rows = []
  for epoch, loss in enumerate(losses, 1):
    row = {"step": 8 * epoch, "epoch": epoch, "images_per_second": 10.0, "seconds": 1.0}
    if isinstance(loss, list):
      row["seeds"] = [{"seed": seed, "train_loss": value} for seed, value in enumerate(loss)]
    row["train_loss"] = float(np.mean(loss))
    rows.append(row)
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  store = checkpoints.Checkpoints(path)
  store.save_latest(rows[-1]["step"], {"state": {"params": {"w": weights}}, "seconds": np.zeros(2)})
  store.close()
  device = {"platform": "cpu", "kind": "cpu", "count": 1}
  (path / "results.json").write_text(json.dumps({"device": device, "dtype": "float32"} | results))


def write_rows(path: pathlib.Path, record: pathlib.Path, factor: float) -> None:
  """Write the config and the metrics of a record, with its training losses times a factor."""
  path.mkdir()
  (path / "config.json").write_text((record / "config.json").read_text())
  rows = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
  rows = [row | {"train_loss": row["train_loss"] * factor} for row in rows]
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
