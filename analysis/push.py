"""Share a finished run on the Hugging Face hub: `--mode=push`.

The repository receives weights.safetensors (the selected weights of one seed, with config and
classes), config.json without this machine's paths, dataset.json, results.json, metrics.jsonl,
learning_curves.png and a model card, README.md.
"""

import dataclasses
import json
import os
import tempfile

from etils import epath

from analysis import export, model_card, run_record, shared_run
from analysis.run import load_run
from cifar_jax import errors
from cifar_jax.runs import hub, plots, weights_file


def push(
  workdir: str | os.PathLike,
  target: str,
  seed: int | None = None,
  licence: str = "",
  private: bool = False,
) -> tuple[str, str]:
  """Write a run to a repository, in one commit.

  Args:
    workdir: the run folder.
    target: hf://owner/name; the repository is created if needed.
    seed: the seed whose weights to share; None for the first.
    licence: for the model card, such as 'apache-2.0'; '' for none.
    private: whether a new repository is visible to its owner alone.

  Returns:
    The address with the commit, and the page of the repository.

  Raises:
    UserError: the run is unfinished, one of its files is not valid, or the repository cannot be
      written.
  """
  repository, _ = hub.parse(target)
  files = collect_files(workdir, f"{hub.SCHEME}{repository}", seed, licence)
  message = f"{run_record.read_record(workdir).title}"
  return hub.upload(target, files, message, private)


def collect_files(
  workdir: str | os.PathLike, address: str, seed: int | None = None, licence: str = ""
) -> dict[str, bytes]:
  """Return the files of the repository by name; raise UserError as `push` does."""
  record = run_record.read_record(workdir)
  if not record.results:
    raise errors.UserError(
      f"workdir: {record.path} is unfinished ({record.progress}); the command that started the run "
      "resumes it"
    )
  run = load_run(workdir, seed)
  portable = shared_run.portable_config(record.config)
  record = dataclasses.replace(record, config=portable)
  contents = {"config.json": portable, "dataset.json": run.description}
  files = {
    name: (json.dumps(content, indent=2) + "\n").encode() for name, content in contents.items()
  }
  for name in ("results.json", "metrics.jsonl", "test_uses.jsonl"):
    if (run.path / name).exists():
      files[name] = (run.path / name).read_bytes()
  with tempfile.TemporaryDirectory() as folder:
    picture = epath.Path(folder) / "learning_curves.png"
    plots.draw_learning_curves(record.rows, record.title, picture)
    files[picture.name] = picture.read_bytes()
  files[weights_file.NAME] = export.serialize_weights(run)
  files["README.md"] = model_card.write_card(record, address, run.seed, licence).encode()
  return files
