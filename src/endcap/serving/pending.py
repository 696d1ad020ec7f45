"""Work of which a part is being computed on a thread: what ends it, and when that can be done without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


class Pending(NamedTuple, Generic[T]):
    """Something that was begun."""

    finish: Callable[[], T]
    """Ends it, once; waits for what is computed on a thread."""
    product: Future[None] | None = None
    """Done when there is no more to wait for; None: there is nothing."""
