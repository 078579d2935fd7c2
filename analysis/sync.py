"""Send a run to a tracker, in a separate process from its training: `--mode=sync --to=NAME`.

The training needs no client, and no network connection can disturb it. sync_<tracker>.json in the
run folder holds the run's id in the tracker and what has been sent, so that the same command
continues where the last one stopped.
"""

import json
import os
import time

from etils import epath

from analysis import run_record, trackers
from analysis.files import write_atomically
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.runs import locks, run_folder
from cifar_jax.runtime import signals
from cifar_jax.runtime.console import log
from cifar_jax.types import Row

POLL_SECONDS = 10.0
_SLICE_SECONDS = 0.2  # between two checks for signals


def sync(
  workdir: str | os.PathLike, to: str, destination: str = "", follow: bool = False
) -> tuple[str, Row]:
  """Send whatever has not been sent: config, metrics, and a finished run's results and pictures.

  Args:
    workdir: the run folder.
    to: the tracker, one of trackers.TRACKERS.
    destination: the project of wandb and trackio, the experiment of mlflow, or the folder of
      tensorboard; '' for the default.
    follow: wait for more epochs until the run is finished.

  Returns:
    The id of the run in the tracker, and the state as sync_<tracker>.json holds it.

  Raises:
    UserError: the folder holds no run with metrics, the tracker is unknown, not installed or
      unavailable, or another process is sending the same run.
    Interrupted: SIGTERM or SIGINT arrived; everything read so far has been sent.
  """
  if to not in trackers.TRACKERS:
    known = ", ".join(trackers.TRACKERS)
    raise errors.UserError(f"--to: {to!r} is not one of {known}; name one of them")
  folder = epath.Path(workdir).expanduser()
  run_record.read_config(folder)  # raises if the folder holds no run
  busy = f"another process is sending {folder} to {to}; wait for it"
  with locks.lock_folder(folder, f".sync_{to}.lock", busy), signals.stop_signals() as received:
    return _send(folder, to, destination, follow, received)


def _send(
  folder: epath.Path, to: str, destination: str, follow: bool, received: list[int]
) -> tuple[str, Row]:
  file = folder / f"sync_{to}.json"
  state = _read_state(file)
  if state["finished"]:
    log.info("%s already has all of %s; remove %s to send it again", to, folder, file.name)
    return str(state["run_id"]), state
  record = _wait_for_rows(folder, follow, received)
  name = record.path.resolve().name if "://" not in str(record.path) else record.path.name
  with trackers.reporting(to):
    is_new = state["run_id"] is None
    tracker = trackers.TRACKERS[to](name, record.fields, destination, state["run_id"])
    state["run_id"] = tracker.run_id
    try:
      if to in trackers.REPLAYED:
        state["rows"] = 0
      elif is_new:
        _write_state(file, state)  # before any row, so that a failure does not lose the run's id
      _send_rows(tracker, record.rows, file, state)
      while follow and not record.results and not received:
        _pause(received)
        record = run_record.read_record(folder)
        _send_rows(tracker, record.rows, file, state)
      if record.results:
        results = {n: v for n, v in trackers.numbers(record.results).items() if v is not None}
        tracker.finish(results, _list_pictures(folder))
        state["finished"] = True
        _write_state(file, state)
    finally:
      if not state["finished"]:
        tracker.close()
  if received and not state["finished"]:
    raise signals.Interrupted(received[0])
  return str(state["run_id"]), state


def _read_state(file: epath.Path) -> Row:
  """Return what has been sent: the content of sync_<tracker>.json, or defaults if there is none."""
  state: Row = {"run_id": None, "rows": 0, "finished": False}
  state |= run_record.read_json_if_present(file)
  with run_folder.reading(file):
    return state | {"rows": int(state["rows"])}


def _send_rows(tracker: trackers.Tracker, rows: list[Row], file: epath.Path, state: Row) -> None:
  """Send the rows that have not been sent; count each in the state and in the file."""
  for row in rows[state["rows"] :]:
    tracker.log(row)
    state["rows"] += 1
    _write_state(file, state)


def _wait_for_rows(folder: epath.Path, follow: bool, received: list[int]) -> RunRecord:
  """Return the run once it has finished an epoch."""
  while True:
    record = run_record.read_record(folder)
    if record.rows:
      return record
    if not follow:
      raise errors.UserError(
        f"workdir: {folder} has no finished epoch yet; wait for one, or pass --follow"
      )
    _pause(received)
    if received:
      raise signals.Interrupted(received[0])


def _pause(received: list[int]) -> None:
  """Wait for POLL_SECONDS, or until a signal arrives."""
  end = time.monotonic() + POLL_SECONDS
  while time.monotonic() < end and not received:
    time.sleep(min(_SLICE_SECONDS, POLL_SECONDS))


def _list_pictures(folder: epath.Path) -> list[epath.Path]:
  plots = folder / "plots"
  return sorted(plots.glob("*.png"), key=str) if plots.exists() else []


def _write_state(file: epath.Path, state: Row) -> None:
  write_atomically(file, (json.dumps(state) + "\n").encode())
