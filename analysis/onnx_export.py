"""Export a trained network as ONNX: `--mode=export --format=onnx`.

The mode writes export/network.onnx to the run folder: a function from uint8 images
[n, height, width, channels] (input 'images') to logits [n, classes] (output 'logits'), with weights
and normalisation. Its metadata are those of weights.safetensors.

The conversion runs in a separate environment (analysis/to_onnx.py). The file is kept only if
onnxruntime computes the same logits as the run.
"""

import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np
from etils import epath

from analysis import export
from analysis.files import explain_failure, write_atomically
from analysis.run import Run
from cifar_jax import errors
from cifar_jax.runtime.console import log

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = _CHECKOUT / ".venv-export" / "bin" / "python"
_NUM_IMAGES = 5


def export_onnx(run: Run) -> list[epath.Path]:
  """Convert a run in float32; write the file if onnxruntime computes the same logits.

  Returns:
    The path of the file.

  Raises:
    UserError: the environment is missing, the network cannot be converted, or the file cannot be
      written.
  """
  if not PYTHON.exists():
    raise errors.UserError(
      "--format: onnx needs a separate environment, .venv-export; run `make export-env`"
    )
  if run.config.get("eval_transform"):
    raise errors.UserError(
      f"eval_transform: {run.config.eval_transform!r} cannot be converted to ONNX; use the other "
      "formats (without --format)"
    )
  run = run.in_float32()
  images = np.random.RandomState(0).randint(0, 256, (_NUM_IMAGES, *run.image_shape), dtype=np.uint8)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "weights.safetensors").write_bytes(export.serialize_weights(run))
    np.savez(folder / "expected.npz", images=images, logits=run.logits(images))
    outcome = _convert(folder)
    if "reason" in outcome:
      raise errors.UserError(
        f"model.name: {run.config.model.name!r} cannot be converted to ONNX ({outcome['reason']}); "
        "use the other formats (without --format)"
      )
    content = (folder / "network.onnx").read_bytes()
  path = run.path / "export" / "network.onnx"
  with explain_failure(f"{path}:", "fix this, then export again"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
  batch = "of any size" if outcome["batch"] == "any" else "of one image only"
  log.info(
    "ONNX for batches %s; its logits differ from the run's by %.1g of the largest",
    batch,
    outcome["difference"],
  )
  return [path]


def _convert(folder: pathlib.Path) -> dict:
  """Return what analysis/to_onnx.py reports; raise UserError if it ends without a report."""
  kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH",)}
  process = subprocess.run(
    [str(PYTHON), "-m", "analysis.to_onnx", str(folder)],
    cwd=_CHECKOUT,
    env=kept | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  try:
    return json.loads((folder / "outcome.json").read_text())
  except (OSError, ValueError):
    lines = process.stderr.strip().splitlines() or ["no message"]
    raise errors.UserError(
      f"--format: onnx: the converter failed ({lines[-1][:300]}); run `make export-env` again"
    ) from None
