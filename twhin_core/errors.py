"""What a user can mend, as opposed to what we broke."""


class TwhinError(Exception):
    """An end that one line explains: the command line shows it without a traceback."""

    exit_code = 1


class UserError(TwhinError):
    """A mistake of the user's."""

    exit_code = 2


class GateFailed(TwhinError):
    """A metric missed its gate: the run is sound, its result is not good enough."""

    exit_code = 3
