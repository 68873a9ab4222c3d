"""Requests that kazoo 2.11 lacks: AddWatch, SetWatches2, MultiRead (106, 105, 22; ZooKeeper 3.6), RemoveWatches, SetWatches (18, 101)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kazoo.exceptions import EXCEPTIONS, NoNodeError
from kazoo.protocol.serialization import int_struct, long_struct, multiheader_struct, read_buffer, read_string, stat_struct, write_string
from kazoo.protocol.states import ZnodeStat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PERSISTENT_RECURSIVE: Final = 1
_ANY_WATCHER: Final = 3
_GET_DATA: Final = 4
_GET_CHILDREN: Final = 8
_ERROR: Final = -1
_NEVER: Final = 2**63 - 1  # no transaction is later


@dataclass(frozen=True)
class AddWatch:
    """Set a persistent recursive watch; `path` includes the chroot."""

    type: ClassVar[int] = 106
    path: str

    def serialize(self) -> bytearray:
        """Body of the request."""
        return bytearray(write_string(self.path) + int_struct.pack(PERSISTENT_RECURSIVE))

    @classmethod
    def deserialize(cls, _buffer: bytes, _offset: int) -> bool:
        """Return True: the response has no body that matters."""
        return True


@dataclass(frozen=True)
class SetTreeWatches:
    """Set persistent recursive watches at many paths, which include the chroot; none of them tells of what has been."""

    type: ClassVar[int] = 105
    paths: Sequence[str]

    def serialize(self) -> bytearray:
        """Body of the request: no watches but those of the last kind."""
        body = bytearray(long_struct.pack(_NEVER) + int_struct.pack(0) * 4 + int_struct.pack(len(self.paths)))
        for path in self.paths:
            body += write_string(path)
        return body

    @classmethod
    def deserialize(cls, _buffer: bytes, _offset: int) -> bool:
        """Return True: the response has no body."""
        return True


@dataclass(frozen=True)
class RemoveWatches:
    """Take every watch of this session from a path; `path` includes the chroot."""

    type: ClassVar[int] = 18
    path: str

    def serialize(self) -> bytearray:
        """Body of the request."""
        return bytearray(write_string(self.path) + int_struct.pack(_ANY_WATCHER))

    @classmethod
    def deserialize(cls, _buffer: bytes, _offset: int) -> bool:
        """Return True: the response has no body."""
        return True


@dataclass(frozen=True)
class SetWatches:
    """Set a one-shot watch on many nodes; paths include the chroot.

    It is meant for a client that comes back and asks what has changed since a transaction. We ask for nothing that has been, read the
    nodes behind it, and so get reading and watching of any number of nodes into one round trip. Told of are a change and the deletion of
    each node; the coming of one that is `absent`; nothing of their children. A watch is set only on a node that is there, or is not, as
    said; of each other one the server tells at once, before it answers.
    """

    type: ClassVar[int] = 101
    present: Sequence[str]
    absent: Sequence[str]
    callback: Callable[[str], object]  # this and the next are not sent: they are for the client
    refused: set[str] = field(default_factory=set, compare=False)

    def serialize(self) -> bytearray:
        """Body of the request."""
        body = bytearray(long_struct.pack(_NEVER))
        for paths in (self.present, self.absent, ()):
            body += int_struct.pack(len(paths))
            for path in paths:
                body += write_string(path)
        return body

    @classmethod
    def deserialize(cls, _buffer: bytes, _offset: int) -> bool:
        """Return True: the response has no body."""
        return True


@dataclass
class MultiRead:
    """Read the data, or the children's names, of many nodes in one round trip; paths include the chroot.

    The result is a list with `(data, ZnodeStat)` or a list of names for each path, None where there is no node, and the exception where
    the server refuses the read. `zxid`, set while the response is read, is the transaction up to which the server had applied everything.
    """

    type: ClassVar[int] = 22
    paths: Sequence[str]
    children: bool = False
    zxid: int = field(default=0, init=False)

    def serialize(self) -> bytearray:
        """Body of the request."""
        body = bytearray()
        header = multiheader_struct.pack(_GET_CHILDREN if self.children else _GET_DATA, 0, -1)
        for path in self.paths:
            body += header + write_string(path) + b"\0"
        body += multiheader_struct.pack(-1, 1, -1)
        return body

    def deserialize(self, buffer: bytes, offset: int) -> tuple[int, list[Any]]:
        """Read the response."""
        results: list[Any] = []
        while True:
            kind, done, _ = multiheader_struct.unpack_from(buffer, offset)
            offset += multiheader_struct.size
            if done:
                return self.zxid, results
            if kind == _ERROR:
                error = EXCEPTIONS[int_struct.unpack_from(buffer, offset)[0]]()
                offset += int_struct.size
                results.append(None if isinstance(error, NoNodeError) else error)
            elif kind == _GET_CHILDREN:
                count = int_struct.unpack_from(buffer, offset)[0]
                offset += int_struct.size
                names = []
                for _i in range(count):
                    name, offset = read_string(buffer, offset)
                    names.append(name)
                results.append(names)
            elif kind == _GET_DATA:
                data, offset = read_buffer(buffer, offset)
                results.append((data or b"", ZnodeStat._make(stat_struct.unpack_from(buffer, offset))))
                offset += stat_struct.size
            else:
                raise struct.error(f"a response of type {kind} in a MultiRead")
