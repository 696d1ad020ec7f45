"""What refuses a request: an HTTP status and a message that the caller can act on."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is answered with `{"error": message}` and `status`; carries no values of the request."""

    def __init__(
        self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = (), *, closes: bool = False
    ) -> None:
        """Take the HTTP `status`, the `message` for the caller and further response `headers`.

        With `closes` the connection ends with the answer.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.closes = closes


def numbers_too_large() -> RequestError:
    """Of numbers that a float holds, and that are yet so far from usual ones that a model overflows."""
    return RequestError(
        400,
        "The model gives no finite score for numbers as large as these. Send numbers of a usual size, or leave them out.",
    )
