"""The error that is meant for the user."""

import pytest

from cifar_jax import errors


def test_a_message_is_one_line_whatever_it_quotes():
  assert str(errors.UserError("a\nb\x1b[2J\u2028é")) == "a\\nb\\x1b[2J\\u2028é"


def test_printable_escapes_all_but_the_kept():
  assert errors.printable("a\n\x1b[2J\udcff猫", keep="\n") == "a\n\\x1b[2J\\udcff猫"


@pytest.mark.parametrize(
  ("error", "expected"),
  [
    (MemoryError(), True),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes."), True),
    (RuntimeError("INTERNAL: failed"), False),
  ],
)
def test_out_of_memory(error, expected):
  assert errors.is_out_of_memory(error) is expected
