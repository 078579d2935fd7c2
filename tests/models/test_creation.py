"""A network and its weights in one call."""

import jax
import numpy as np
import pytest

from cifar_jax import errors
from models import transfer
from models.creation import create_model

ARGUMENTS = {"widths": (4,), "dense": (8,)}


@pytest.mark.usefixtures("quick_compilation")
def test_a_network_with_weights_of_a_run_keeps_its_own_head_for_other_classes(monkeypatch):
  _, weights = create_model("simple_cnn", 10, seed=1, **ARGUMENTS)
  monkeypatch.setattr(transfer, "load", lambda source: weights if source == "/run" else None)
  model, variables = create_model("simple_cnn", 7, pretrained="/run", **ARGUMENTS)
  images = np.zeros((2, 32, 32, 3), np.float32)
  assert jax.eval_shape(lambda: model.apply(variables, images, train=False)).shape == (2, 7)
  kernels = [v["params"]["dense1"]["kernel"] for v in (variables, weights)]
  np.testing.assert_array_equal(*kernels)
  assert variables["params"]["head"]["kernel"].shape == (8, 7)


def test_wrong_calls_are_one_line():
  with pytest.raises(
    errors.UserError, match=r"^images: 'airbench94' computes weights from 5000 im"
  ):
    create_model("airbench94")
  with pytest.raises(errors.UserError, match=r"^model\.depth: 'simple_cnn' takes no such argument"):
    create_model("simple_cnn", depth=3)
