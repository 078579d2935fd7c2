"""Scale on paper: bytes against the compiled step, formulas against each other, docs/scaling.md."""

import json

import pytest
import small_runs

from benchmarks import records
from benchmarks.speed import all_reduce, scale_on_paper


@pytest.mark.parametrize("sync_bn", [True, False])
def test_bytes_of_the_compiled_step_are_those_of_the_formula(tmp_path_factory, sync_bn):
  data = tmp_path_factory.getbasetemp() / "data"
  # Augmentation and Lookahead reduce nothing, and cost most of the compilation.
  options = {"augment": "", "lookahead__every": 0}
  config = small_runs.config(data, model__sync_bn=sync_bn, **options)
  parameters, sizes = all_reduce.of_step(config)
  assert parameters == (3734, 64)
  assert sum(sizes) == all_reduce.step_bytes(*parameters, sync_bn)
  # Six norms reduce forward and backward; the last one's backward goes with the gradients.
  assert len(sizes) >= 12 if sync_bn else len(sizes) < 6


def test_all_reduces_are_read_from_a_program():
  program = """
  %psum.1 = f32[2,64]{1,0} all-reduce(%a), channel_id=1, to_apply=%region
  %all-reduce.2 = (f32[], bf16[3,3]{1,0}, /*index=2*/pred[5]{0}) all-reduce(%b, %c), channel_id=2
  %get-tuple-element.1 = f32[] get-tuple-element(%all-reduce.2), index=0
  %start = f32[7]{0} all-reduce-start(%e), channel_id=3
  %done = f32[7]{0} all-reduce-done(%start)
  """
  assert all_reduce.all_reduces(program) == [512, 4 + 18 + 5, 28]
  with pytest.raises(ValueError, match="all-gather"):
    all_reduce.all_reduces("%x = f32[8]{0} all-gather(%a), dimensions={0}")


def test_a_ring_sends_the_bytes_of_the_formula():
  machine = scale_on_paper.Machine("ring", 5, 1.0, out=10.0, latency=0.0)
  # Five parts of 100 bytes: each device sends one in each of 4 steps to sum, and of 4 to share.
  assert scale_on_paper.transfer_seconds(500, machine) == pytest.approx((4 + 4) * 100 / 10)


def test_at_the_break_even_reducing_takes_as_long_as_computing():
  for machine in scale_on_paper.MACHINES:
    for network in scale_on_paper.networks():
      for sync_bn in (True, False):
        images = scale_on_paper.break_even(network, machine, sync_bn, 0.4)
        batch = images * machine.devices
        computing = scale_on_paper.compute_seconds(network, machine, batch, 0.4)
        reducing = scale_on_paper.reduce_seconds(network, machine, sync_bn)
        assert computing == pytest.approx(reducing)
        # The same for the images of one device.
        assert computing == pytest.approx(network.flops * images / (machine.flops * 0.4))


def test_recorded_bytes_are_those_of_the_formula_except_xlas_savings():
  rows = json.loads((records.RESULTS / "all_reduce.json").read_text())["rows"]
  assert len(rows) == 5 * 4 * 2
  by_name = {network.name: network for network in scale_on_paper.networks()}
  for row in rows:
    formula = by_name[row["model"]].bytes(row["sync_bn"] == "True")
    assert row["formula"] == formula
    assert 0.9999 * formula <= row["bytes"] <= formula


def test_the_document_has_the_current_tables():
  text = scale_on_paper.DOCUMENT.read_text()
  assert scale_on_paper.updated(text) == text, (
    "run python -m benchmarks.speed.scale_on_paper --write"
  )
