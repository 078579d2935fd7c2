"""Pickles of plain data are read without executing them; all others are refused."""

import os
import pickle
import pickletools

import numpy as np
import pytest
import small_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax.data import plain_pickle

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 300), np.uint8)
VALUES = {"label": "batch 1", "labels": [3, 0, 255], "data": PIXELS, "filenames": ["a.png"]}


def check(actual: dict) -> None:
  assert actual.keys() == VALUES.keys()
  np.testing.assert_array_equal(actual["data"], PIXELS)
  assert actual["data"].dtype == np.uint8
  assert {**actual, "data": 0} == {**VALUES, "data": 0}


def test_pickles_of_python_2():
  content = small_datasets.python2_pickle(VALUES)
  loaded = pickle.loads(content, encoding="latin-1")  # the pickle of the tests is a true one
  check(loaded)
  check(plain_pickle.read(content))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickles_of_python_3(protocol):
  check(plain_pickle.read(pickle.dumps(VALUES, protocol)))
  values = {key.encode(): value for key, value in VALUES.items()}  # PyTorch users' encoding="bytes"
  check(plain_pickle.read(pickle.dumps(values, protocol)))


class Malicious:
  def __init__(self, call, *arguments):
    self.parts = (call, arguments)

  def __reduce__(self):
    return self.parts


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_nothing_executes(tmp_path, protocol):
  target = tmp_path / "owned"
  for call, arguments, name in [
    (os.system, (f"touch {target}",), "system"),
    (eval, (f"open({str(target)!r}, 'w')",), "eval"),
    (os.mkdir, (str(target),), "mkdir"),
    (np.save, (str(target), [1]), "save"),
  ]:
    for values in ({"data": Malicious(call, *arguments)}, Malicious(call, *arguments)):
      content = pickle.dumps(values, protocol)
      with pytest.raises(plain_pickle.Refused, match=name) as caught:
        plain_pickle.read(content)
      assert "\n" not in str(caught.value)
  assert list(tmp_path.iterdir()) == []
  pickle.loads(pickle.dumps(Malicious(os.mkdir, str(target)), protocol))
  assert target.exists()  # the pickles do execute where they are trusted


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "not a pickle, or damaged"),
    (b"\x80\x02}q\x01(", "not a pickle, or damaged"),
    (pickle.dumps([1]), "it holds a list instead of a dict"),
    (pickle.dumps({"data": np.arange(3.0)}, 2), "it calls 'numpy dtype' with arguments"),
    (pickle.dumps({"data": np.array([None])}, 2), "it calls 'numpy dtype' with arguments"),
    (pickle.dumps({"x": 1.5}, 2), "it holds the operation BINFLOAT"),
    (pickle.dumps({"data": PIXELS.T.copy(order="F")}, 2), "not a uint8 array in C order"),
    (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "it calls 'numpy ndarray' with arguments"),
    (b"\x80\x02U\x03abcK\x01\x85R.", "it calls 'abc' with arguments"),
    (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n\x85R.", "it names 'os.system'"),
    (b"\x80\x02Pid\n.", "it holds the operation PERSID"),
    (b"\x80\x02ios\nsystem\n.", "it holds the operation INST"),
    (b"\x80\x02\x82\x01.", "it holds the operation EXT1"),
    (b"\x80\x02U\x02oscos\nsystem\n\x81.", "it names 'os.system'"),
  ],
)
def test_other_contents_are_refused_in_one_line(content, message):
  with pytest.raises(plain_pickle.Refused, match=message) as caught:
    plain_pickle.read(content)
  assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pickles_are_read_or_refused(data):
  content = bytearray(small_datasets.python2_pickle({**VALUES, "data": PIXELS[:, :3]}))
  for _ in range(data.draw(st.integers(1, 5))):
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  try:
    values = plain_pickle.read(bytes(content))
  except plain_pickle.Refused as error:
    assert "\n" not in str(error)
  else:
    assert isinstance(values, dict)


def test_known_operations_exist():
  names = {opcode.name for opcode in pickletools.opcodes}
  used = {*plain_pickle._VALUES, *plain_pickle._CONSTANTS, *plain_pickle._TUPLES}
  assert used <= names
