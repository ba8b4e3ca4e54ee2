"""What a user can mend, as opposed to what we broke."""


class UserError(Exception):
    """A mistake of the user's: shown as one line, without a traceback, and ended with exit code 2."""


class GateFailed(Exception):
    """A metric missed its gate: the run is sound, its result is not good enough. Exit code 3."""
