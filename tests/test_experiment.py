"""What a config becomes on an accelerator, which the tests pretend to have."""

import types

import jax
import pytest

import experiment
from configs import default


@pytest.mark.parametrize(
  ("backend", "capabilities", "dtype"),
  [
    ("tpu", [None], "bfloat16"),
    ("gpu", ["7.0"], "float32"),  # V100
    ("gpu", ["7.5"], "float32"),  # T4
    ("gpu", ["8.0"], "bfloat16"),  # A100
    ("gpu", ["12.0"], "bfloat16"),
    ("gpu", ["9.0", "7.5"], "float32"),
    ("gpu", ["gfx90a"], "bfloat16"),  # AMD
  ],
)
def test_auto_is_bfloat16_where_the_devices_have_units_for_it(
  monkeypatch, backend, capabilities, dtype
):
  devices = [types.SimpleNamespace(compute_capability=c) for c in capabilities]
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "devices", lambda: devices)
  assert experiment.resolve(default.get_config()).dtype == dtype
