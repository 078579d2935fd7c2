"""The error that is meant for the user."""

from cifar_jax import errors


def test_a_message_is_one_line_whatever_it_quotes():
  assert str(errors.UserError("a\nb\x1b[2J\u2028é")) == "a\\nb\\x1b[2J\\u2028é"
