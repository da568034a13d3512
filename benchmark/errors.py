"""Errors a user can mend: one sentence what is wrong, one sentence what to do."""


class BenchError(Exception):
    """What is wrong and what to do about it; the command line prints both and exits 2."""

    #: The failure kind a cell gets when this error ends it.
    kind = "bad_input"

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what} {todo}".strip())
        self.what = what
        self.todo = todo


class DataMissing(BenchError):
    """A data set, or a part of it, is not on this machine."""

    kind = "data_missing"


class NotFinite(BenchError):
    """A loss or a score became NaN or infinite."""

    kind = "not_finite"


class Interrupted(Exception):
    """The user or the cluster asked the running cell to stop."""
