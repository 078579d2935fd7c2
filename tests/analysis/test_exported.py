"""Exported files answer as the run does, and ONNX files are kept only if they do."""

import json
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from corner_network import predict_text

from analysis import export, exported, load_run, onnx_export, to_onnx
from cifar_jax import errors
from cifar_jax.runs import weights_file


@pytest.fixture(scope="module")
def run(workdir):
  return load_run(workdir)


@pytest.fixture(scope="module")
def images(run):
  return np.random.RandomState(0).randint(0, 256, (5, *run.image_shape), np.uint8)


@pytest.fixture(scope="module")
def files(run):
  """The exported files of the run, by suffix."""
  return {path.suffix: path for path in export.export(run)}


def write_linear_onnx(path, weights, metadata, batch="n"):
  """Write an ONNX file that multiplies the flat image by weights [pixels, classes].

  The onnx package is not needed to write one: the fields are those of onnx.proto.
  """

  def field(number, value):
    if isinstance(value, int):
      return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data

  def varint(value):
    low, rest = value & 127, value >> 7
    return bytes([low | 128 * bool(rest)]) + (varint(rest) if rest else b"")

  def tensor(name, kind, array):
    dims = b"".join(field(1, size) for size in array.shape)
    return dims + field(2, kind) + field(8, name) + field(9, array.tobytes())

  def value_info(name, kind, shape):
    dims = [field(2, size) if isinstance(size, str) else field(1, size) for size in shape]
    shape_proto = b"".join(field(1, dim) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape_proto)))

  def node(kind, inputs, output, attributes=b""):
    names = b"".join(field(1, name) for name in inputs)
    return field(1, names + field(2, output) + field(4, kind) + attributes)

  float32, uint8, int64, to_type = 1, 2, 7, field(1, "to") + field(3, 1) + field(20, 2)
  flat = np.array([-1, weights.shape[0]], np.int64)
  graph = node("Cast", ["images"], "floats", field(5, to_type))
  graph += node("Reshape", ["floats", "shape"], "flat") + node("MatMul", ["flat", "w"], "logits")
  graph += field(2, "linear") + field(5, tensor("shape", int64, flat))
  graph += field(5, tensor("w", float32, weights))
  graph += field(11, value_info("images", uint8, (batch, 32, 32, 3)))
  graph += field(12, value_info("logits", float32, (batch, weights.shape[1])))
  props = b"".join(field(14, field(1, k) + field(2, v)) for k, v in metadata.items())
  path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 17)) + props)


def metadata_of(run):
  return {
    name: json.dumps(value) for name, value in weights_file.describe(export.content_of(run)).items()
  }


@pytest.mark.parametrize("suffix", [".safetensors", ".jax_export"])
def test_exported_files_answer_as_the_run(run, images, files, suffix):
  network = exported.load_network(files[suffix])
  np.testing.assert_allclose(network.predict(images), run.predict(images), atol=1e-5)
  assert network.class_names == run.class_names
  assert (network.seed, network.step) == (run.seed, run.step)
  assert network.predict(images[:0]).shape == (0, len(run.class_names))


@pytest.mark.parametrize("batch", ["n", 1])
def test_onnx_files_are_run_with_their_metadata(run, images, tmp_path, batch):
  weights = np.float32(np.random.RandomState(1).normal(size=(images[0].size, 10), scale=1e-4))
  write_linear_onnx(tmp_path / "network.onnx", weights, metadata_of(run), batch)
  network = exported.load_network(tmp_path / "network.onnx")
  logits = images.reshape(5, -1) @ weights
  np.testing.assert_allclose(network.logits(images), logits, rtol=1e-4, atol=1e-4)
  assert network.image_shape == run.image_shape
  powers = np.exp(logits)
  np.testing.assert_allclose(
    network.predict(images), powers / powers.sum(1, keepdims=True), rtol=1e-3
  )


def test_predict_shows_runs_and_files_side_by_side(run, files):
  picture = small_runs.ROOT / "docs" / "gallery" / "grad_cam.png"
  text, code = predict_text([run.path, files[".jax_export"]], [picture], as_json=True)
  assert code == 0
  (row,) = json.loads(text)["images"]
  first, second = row["predictions"]
  assert second["run"] == "inference.jax_export" and first["run"] == run.name
  assert second["probability"] == pytest.approx(first["probability"], abs=1e-4)


def test_wrong_files_get_one_line(run, files, tmp_path):
  for name in ("bad.onnx", "bad.jax_export"):
    (tmp_path / name).write_bytes(b"neither")
    with pytest.raises(
      errors.UserError, match=rf"--model: .*{name}: not a network that \w+ can run"
    ):
      exported.load_network(tmp_path / name)
  with pytest.raises(errors.UserError, match="no such file; name one that --mode=export wrote"):
    exported.load_network(tmp_path / "none.onnx")
  write_linear_onnx(tmp_path / "other.onnx", np.zeros((3072, 10), np.float32), {})
  with pytest.raises(errors.UserError, match=r"other\.onnx: corrupt"):
    exported.load_network(tmp_path / "other.onnx")
  with pytest.raises(errors.UserError, match=r"has the weights of seed 0, not 7"):
    exported.load_network(files[".jax_export"], seed=7)


def test_without_onnxruntime_the_error_names_it(run, tmp_path, monkeypatch):
  write_linear_onnx(tmp_path / "a.onnx", np.zeros((3072, 10), np.float32), metadata_of(run))
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(errors.UserError, match="needs onnxruntime; run `pip install onnxruntime`"):
    exported.load_network(tmp_path / "a.onnx")


def test_without_its_environment_the_export_names_the_command(run, monkeypatch, tmp_path):
  monkeypatch.setattr(onnx_export, "PYTHON", tmp_path / "python")
  with pytest.raises(errors.UserError, match="run `make export-env`"):
    onnx_export.export_onnx(run)


# Stands for the environment's Python: checks what it is given, and reports.
CONVERTER = """#!{python}
import json, os, pathlib, sys
import numpy as np
assert sys.argv[1:3] == ["-m", "analysis.to_onnx"] and os.path.exists("analysis/to_onnx.py")
folder = pathlib.Path(sys.argv[3])
with np.load(folder / "expected.npz") as file:
  assert file["images"].dtype == np.uint8 and file["logits"].shape == (5, 10)
assert (folder / "weights.safetensors").exists()
outcome = {outcome}
if outcome is None:
  sys.exit("Traceback\\nImportError: no jax2onnx")
if "batch" in outcome:
  (folder / "network.onnx").write_bytes(b"converted")
(folder / "outcome.json").write_text(json.dumps(outcome))
"""


@pytest.mark.parametrize(
  ("outcome", "message"),
  [
    ({"batch": 1, "difference": 1e-6}, None),
    (
      {"reason": "ValueError: its logits differ by 0.1"},
      "'simple_cnn' cannot be converted to ONNX",
    ),
    (None, "the converter failed (ImportError: no jax2onnx); run `make export-env` again"),
  ],
)
def test_onnx_is_kept_only_if_the_converter_says_so(
  workdir, tmp_path, monkeypatch, log_lines, outcome, message
):
  for name in ("config.json", "dataset.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  python = tmp_path / "python"
  python.write_text(CONVERTER.format(python=sys.executable, outcome=outcome))
  python.chmod(0o755)
  monkeypatch.setattr(onnx_export, "PYTHON", python)
  run = load_run(tmp_path)
  file = tmp_path / "export" / "network.onnx"
  if message is None:
    assert onnx_export.export_onnx(run) == [file]
    assert file.read_bytes() == b"converted"
    assert "ONNX for batches of one image only" in log_lines[-1]
    return
  with pytest.raises(errors.UserError, match=re.escape(message)):
    onnx_export.export_onnx(run)
  assert not file.exists()


def test_the_converter_reads_the_same_network(run, images, files):
  infer, metadata, shape = to_onnx.load(files[".safetensors"])
  np.testing.assert_allclose(jax.jit(infer)(images), run.logits(images), rtol=1e-4, atol=1e-5)
  assert tuple(shape) == run.image_shape and json.loads(metadata["class_names"]) == run.class_names


def test_pooling_with_padding_as_an_operator_is_that_of_flax():
  x = np.float32(np.random.RandomState(0).normal(size=(2, 7, 6, 3)))
  expected = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 0)))
  pooled = to_onnx.max_pool(jnp.asarray(x), (3, 3), (2, 2), ((1, 1), (1, 0)))
  np.testing.assert_array_equal(pooled, expected)


def test_a_transform_of_evaluated_images_is_refused(workdir, tmp_path, monkeypatch):
  for name in ("dataset.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  config = json.loads((workdir / "config.json").read_text())
  config["eval_transform"] = "pad_and_resize(padding=4)"
  (tmp_path / "config.json").write_text(json.dumps(config))
  monkeypatch.setattr(onnx_export, "PYTHON", tmp_path)
  with pytest.raises(
    errors.UserError, match=r"eval_transform: 'pad_and_resize\(padding=4\)' cannot"
  ):
    onnx_export.export_onnx(load_run(tmp_path))
