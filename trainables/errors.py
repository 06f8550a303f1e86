"""Errors that are told in one sentence, without a traceback."""


class UserError(Exception):
    """Bad input. The message is one sentence: what was given, what is wrong with it, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class SweepError(Exception):
    """The sweep cannot come to a result, though its input is good. Exit code 1."""
