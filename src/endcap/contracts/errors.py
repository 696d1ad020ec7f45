"""The one exception tree: whose turn it is to act decides the class."""


class EndcapError(Exception):
    """Base of every error that Endcap raises on purpose.

    The message says what was found, what was expected and what to do next; it carries no raw user ids.
    """


class InputError(EndcapError):
    """The caller's data, configuration or request is wrong: theirs to fix (exit code 2, HTTP 4xx)."""


class ColumnsError(InputError):
    """The data lacks columns that a FeatureConfig names, or has them of another type.

    `problems` are pairs of a configuration's key and what is wrong with it, so that a caller can name its file.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{key}: {text}" for key, text in problems))
        self.problems = problems


class ConflictError(InputError):
    """Somebody else wrote first: look at what is there, then decide anew."""


class TransientError(EndcapError):
    """The outside world failed in a way that may pass: trying again may help."""


class DiskFullError(TransientError):
    """The disk is full: nothing can be written until somebody frees space, so trying again at once does not help."""


class ArtifactError(EndcapError):
    """A stored file is missing, damaged or altered: nothing of it is loaded (exit code 2, HTTP 503)."""
