"""The fragments of a message (PS3.8 annex E): PDVs that belong together, whatever PDUs they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from angiovault.dimse.endings import ProtocolError
from angiovault.dimse.wire import UNEXPECTED_PDU, Wire

_ANY: Final = -1


class Fragments:
    """The fragments of one command set or one data set, as they arrive; an iterator over their bytes.

    A view is valid until the next is asked for. What is not read by one way can be read by the other.

    Parameters
    ----------
    wire : Wire
        The connection.
    command : bool
        Whether a command set is expected, or a data set.
    context_id : int, optional
        Presentation Context ID that every PDV must have; by default that of the first.
    ended : bool
        Whether there is none at all.
    """

    def __init__(self, wire: Wire, command: bool, context_id: int = _ANY, ended: bool = False) -> None:
        self.context_id = context_id
        self._wire = wire
        self._command = command
        self._begun = not command
        self._left = 0  # bytes of the current PDV
        self._is_last = ended

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        """Return what has come.

        Raises
        ------
        AssociationEnded
            When anything else comes, in the words of what came.
        """
        if not self._advance():
            raise StopIteration
        view = self._wire.read_some(self._left)
        self._left -= len(view)
        return view

    def read_into(self, room: Callable[[], memoryview], filled: Callable[[int], None]) -> None:
        """Read everything that is left into memory of the caller's, the bulk of it directly.

        Parameters
        ----------
        room : Callable
            Returns where the next bytes are to be put, at least one.
        filled : Callable
            Is told how many bytes were put there. What it raises is passed on.

        Raises
        ------
        AssociationEnded
            When anything else comes, in the words of what came.
        """
        while self._advance():
            got = self._wire.read_into(room(), self._left, not self._is_last)
            self._left -= got
            filled(got)

    def _advance(self) -> bool:
        """Step into the next PDV that is not empty, unless bytes of one are left; return whether there are any."""
        while not self._left:
            if self._is_last:
                return False
            self._left, context_id, flags = self._wire.next_pdv(self._begun)
            self._begun = True
            if bool(flags & 1) != self._command:
                due = "command where a data set is due" if flags & 1 else "data set where a command is due"
                raise ProtocolError(due, UNEXPECTED_PDU)
            if self.context_id not in (_ANY, context_id):
                raise ProtocolError(f"PDV of presentation context {context_id} within a message of {self.context_id}")
            self.context_id = context_id
            self._is_last = bool(flags & 2)
        return True
