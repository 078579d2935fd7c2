"""The picture of a sweep: a panel for each configuration, the best outlined."""

from etils import epath
from matplotlib import colors

from cifar_jax.runs.run_folder import RunFolder
from tuning import panel
from tuning.trials import Trial

RED = colors.to_rgba("tab:red")


def write_trials(folder, accuracies):
  """Write metrics.jsonl of trials by name; return the trials."""
  trials = []
  for name, values in accuracies.items():
    path = epath.Path(folder) / "trials" / name
    RunFolder(path).write_metrics(
      [
        {"epoch": epoch, "train_accuracy": value + 0.1, "val_accuracy": value}
        for epoch, value in enumerate(values, start=1)
      ]
    )
    trials.append(Trial(name, {}, None, path))
  return trials


def entry(name, trials, accuracy=None, rank=None):
  status = "finished" if rank else "unfinished"
  row = {"name": name, "trials": trials, "rank": rank, "status": status, "fields": {}}
  return row | ({} if accuracy is None else {"val_accuracy": accuracy})


def visible(figure):
  return [axis for axis in figure.axes if axis.get_visible()]


def test_each_configuration_has_a_panel_and_the_best_is_outlined(drawn, tmp_path):
  trials = write_trials(
    tmp_path, {"a": [0.2, 0.3], "b0": [0.4, 0.6], "b1": [0.5, 0.7], "c": [0.1], "d": []}
  )
  ranking = [
    entry("lr=0.1__width=8", ["b0", "b1"], 0.65, rank=1),
    entry("lr=0.2", ["a"], 0.3, rank=2),
    entry("lr=0.3", ["c"]),
    entry("lr=0.4", ["d"]),  # no epoch has finished
  ]
  summary = {"rank_by": "val_accuracy", "ranking": ranking}
  assert panel.draw_curves(summary, trials, epath.Path(tmp_path / "curves.png"))
  assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
  axes = visible(drawn[0])
  assert [axis.get_title() for axis in axes] == [
    "lr=0.1, width=8\nvalidation accuracy 65.00%",
    "lr=0.2\nvalidation accuracy 30.00%",
    "lr=0.3\nunfinished",
  ]
  curves = [[list(line.get_ydata()) for line in axis.lines] for axis in axes]
  assert curves[0] == [[0.5, 0.7], [0.4, 0.6], [0.6, 0.7 + 0.1], [0.5, 0.7]]
  is_red = [[spine.get_edgecolor() == RED for spine in axis.spines.values()] for axis in axes]
  assert [all(sides) for sides in is_red] == [True, False, False]
  assert not any(is_red[1]) and not any(is_red[2])
  assert len({axis.get_ylim() for axis in axes}) == 1


def test_large_sweeps_show_the_first_of_the_ranking(drawn, tmp_path):
  names = [f"trial{i}" for i in range(panel.MAX_PANELS + 2)]
  trials = write_trials(tmp_path, {name: [0.1, 0.2] for name in names})
  ranking = [entry(name, [name], 0.2, rank) for rank, name in enumerate(names, start=1)]
  summary = {"rank_by": "val_accuracy", "ranking": ranking}
  panel.draw_curves(summary, trials, epath.Path(tmp_path / "curves.png"))
  assert len(visible(drawn[0])) == panel.MAX_PANELS
  assert drawn[0].get_suptitle().endswith("; the first 24 of 26")


def test_without_an_epoch_there_is_no_picture(tmp_path):
  trials = write_trials(tmp_path, {"a": []})
  summary = {"rank_by": "val_loss", "ranking": [entry("a", ["a"])]}
  assert not panel.draw_curves(summary, trials, epath.Path(tmp_path / "curves.png"))
  assert not (tmp_path / "curves.png").exists()
