"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
  """Something the user can mend: one line naming the field or file, what is wrong and the remedy.

  main.py prints the message without a traceback and exits with a non-zero code.
  """
