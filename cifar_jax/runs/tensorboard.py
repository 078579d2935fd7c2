"""TensorBoard events: the rows of metrics.jsonl as scalars."""

import contextlib
import time
from typing import Any

from etils import epath

from cifar_jax import errors
from cifar_jax.types import Row


class EventWriter:
  """Writes rows to one event file, without a thread.

  SummaryWriter writes in a thread. A full disk ends that thread, and after that, every call that
  adds a value blocks forever.

  Args:
    folder: the folder of the event file; created with the first row.
  """

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._file: Any = None  # tensorboardX's EventsWriter
    self._num_rows = 0

  def write(self, rows: list[Row]) -> None:
    """Add the numbers of the rows that have not been written yet.

    A resumed run writes the rows of all its epochs again, because a killed run may have lost its
    last events. Readers then drop the older events.

    Args:
      rows: all rows of the run.

    Raises:
      UserError: the file cannot be written.
    """
    try:
      if self._file is None:
        self._open(rows[0]["step"])
      for row in rows[self._num_rows :]:
        self._write_row(row)
      self._file.flush()
    except OSError as error:
      raise errors.UserError(
        f"{self._folder}: cannot be written ({error.strerror or error}); fix this, then rerun the "
        "same command to resume"
      ) from error
    self._num_rows = len(rows)

  def add_text(self, step: int, name: str, text: str) -> None:
    """Add a text, in Markdown; raise OSError if it cannot be written. Call `write` first."""
    from tensorboardX import summary

    self._add(step, summary.text(name, text))

  def add_picture(self, step: int, name: str, png: bytes) -> None:
    """Add a picture; raise OSError if it cannot be written. Call `write` first."""
    from tensorboardX.proto import summary_pb2

    picture = summary_pb2.Summary.Image(encoded_image_string=png)
    value = summary_pb2.Summary.Value(tag=name, image=picture)
    self._add(step, summary_pb2.Summary(value=[value]))

  def _add(self, step: int, content: Any) -> None:
    from tensorboardX.proto import event_pb2

    event = event_pb2.Event(wall_time=time.time(), step=step)
    event.summary.CopyFrom(content)
    self._file.write_event(event)
    self._file.flush()

  def close(self) -> None:
    """Close the file, if there is one."""
    if self._file is not None:
      with contextlib.suppress(OSError):  # `write` has reported what it could not write
        self._file.close()

  def _open(self, step: int) -> None:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    self._folder.mkdir(parents=True, exist_ok=True)
    self._file = EventsWriter(str(self._folder / "events"))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # drops older events
    self._file.write_event(event_pb2.Event(wall_time=time.time(), step=step, session_log=start))

  def _write_row(self, row: Row) -> None:
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2

    for name, value in row.items():
      if isinstance(value, int | float) and name != "step":
        event = event_pb2.Event(wall_time=time.time(), step=row["step"])
        event.summary.CopyFrom(summary.scalar(name, value))
        self._file.write_event(event)
