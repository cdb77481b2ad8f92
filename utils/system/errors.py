"""Errors that the user can put right. Their text is one line that names flag or file, value and way out."""


class UserError(ValueError):
    """Something outside the program is not as it must be; scripts show the text and exit with status 2."""

    advice = ""  # behind the text, where a script shows it
    of_one_process = False  # of several processes of a run, one alone may meet it: a file in its share of the data


class UsageError(UserError):
    """A flag's value, or flags that contradict each other."""
