"""The one error that is the user's to mend."""


class UserError(Exception):
    """Bad input. The message is one sentence: what was given, what is wrong with it, what to do.

    The command line prints it without a traceback and exits with code 2.
    """
