"""What pages and the web framework say to one another: requests, answers, and refusals with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LONGEST_BODY: Final = 1 << 16
"""Bytes that a request may bring along; settings and devices are small."""

Message = dict[str, Any]
"""A sentence for people: a key of the tables of texts and values for its placeholders; or `en` and `zh` ready made."""


def said(key: str, **values: Any) -> Message:
    """Return a sentence of the tables of texts."""
    return {"key": key, "values": values}


class Refused(Exception):
    """The request ends here, with an HTTP status and a reason.

    Parameters
    ----------
    status : int
        The HTTP status.
    key : str
        The reason, a key of the tables of texts.
    problems : Mapping, optional
        Field → what is wrong with it.
    values
        Values for the reason's placeholders.
    """

    def __init__(self, status: int, key: str, problems: Mapping[str, Message] | None = None, **values: Any) -> None:
        super().__init__(key)
        self.status = status
        self.content = {"error": said(key, **values), "problems": dict(problems or {})}


@dataclass(frozen=True)
class Asked:
    """A request that was let in: who asks, the query, the JSON object it brings."""

    user: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str, longest: int = 1000) -> str:
        """Return a text of the body, '' when it is not there.

        Raises
        ------
        Refused
            When it is no text, or too long.
        """
        value = self.body.get(name, "")
        if not isinstance(value, str) or len(value) > longest:
            raise Refused(400, "refused.malformed")
        return value


@dataclass(frozen=True)
class Answer:
    """An answer that is not a JSON object."""

    body: bytes | Iterable[bytes]
    type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


Handler = Callable[..., Mapping[str, Any] | Answer]


@dataclass(frozen=True)
class Route:
    """What answers a method and a path relative to the panel; parts of the path in `<>` are arguments."""

    method: str
    path: str
    handler: Handler
