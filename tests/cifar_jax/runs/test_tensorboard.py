"""TensorBoard events: every epoch once, also after a resume and with a full disk."""

import struct

import pytest
from etils import epath
from tensorboardX.proto import event_pb2

from cifar_jax import errors
from cifar_jax.runs.tensorboard import EventWriter

ROWS = [{"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch} for epoch in (1, 2)]


def losses(folder: epath.Path, tag: str = "loss") -> list[tuple[int, float]]:
  """Return step and loss, or what `tag` names, of each event in the only file of a folder.

  The file holds TFRecords: length [8], its CRC [4], event [length], its CRC [4].
  """
  (file,) = folder.iterdir()
  content, values = file.read_bytes(), []
  while content:
    (length,) = struct.unpack("<Q", content[:8])
    event = event_pb2.Event.FromString(content[12 : 12 + length])
    values += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
    content = content[16 + length :]
  return values


def test_a_resumed_run_writes_every_epoch(tmp_path):
  folder = epath.Path(tmp_path) / "tensorboard"
  writer = EventWriter(folder)
  writer.write(ROWS[:1])
  writer.write(ROWS)
  writer.close()
  assert losses(folder) == [(10, 1.0), (20, 0.5)]
  (file,) = folder.iterdir()
  file.unlink()  # a killed run may lose its last events
  resumed = EventWriter(folder)
  resumed.write(ROWS)
  resumed.close()
  assert losses(folder) == [(10, 1.0), (20, 0.5)]


def test_the_loss_with_its_penalty_is_a_scalar_too(tmp_path):
  writer = EventWriter(epath.Path(tmp_path) / "tensorboard")
  writer.write([row | {"val_objective": row["loss"] + 0.25} for row in ROWS])
  writer.close()
  folder = epath.Path(tmp_path) / "tensorboard"
  assert losses(folder, "val_objective") == [(10, 1.25), (20, 0.75)]
  assert losses(folder) == [(10, 1.0), (20, 0.5)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "tensorboard").write_text("a file")
  writer = EventWriter(epath.Path(tmp_path) / "tensorboard")
  with pytest.raises(errors.UserError, match=r"tensorboard: cannot be written \(.*; fix"):
    writer.write(ROWS)
  writer.close()
