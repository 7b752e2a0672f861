"""How much work a PKCS#12 file asks for, told without doing it: its key derivations' rounds, read from its structure.

A file may ask for two thousand millions of rounds, and neither OpenSSL nor cryptography has a limit or can be
interrupted. Rounds stand behind their salt: an OCTET STRING and then an INTEGER, in PBES1's and PBKDF2's parameters
(RFC 8018, appendix A) and in the MAC of PKCS#12 (RFC 7292, section 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TOO_MANY = 1 << 62
_INTEGER, _OCTETS, _CONSTRUCTED = 0x02, 0x04, 0x20
_DEPTH = 64
_MOST = 20_000  # elements; a PFX of a chain has some hundreds


class _Element(NamedTuple):
    tag: int
    content: bytes
    rest: bytes


class _Odd(ValueError):
    """Not DER nor BER from here on; OpenSSL reads what stands before."""


def rounds(data: bytes) -> int:
    """The most rounds that any key derivation in it asks for, as far as it is no cipher's text.

    0 if there is none to be seen; `TOO_MANY` if the structure is larger or deeper than any file of its kind.
    """
    walk = _Walk()
    try:
        most = max(walk.rounds(data, 0), default=0)
    except RecursionError:
        return TOO_MANY
    return TOO_MANY if walk.exceeded else most


class _Walk:
    """Looks at elements, each time anew: what is in one without a length is looked at to find its end as well."""

    def __init__(self) -> None:
        self._left = _MOST
        self.exceeded = False

    def rounds(self, data: bytes, depth: int) -> Iterator[int]:
        """Of all elements of `data` and of what is in them, up to the first that is none."""
        before = None
        while data:
            self.exceeded = self.exceeded or depth > _DEPTH
            try:
                tag, content, data = self._element(data)
            except _Odd:
                return
            if self.exceeded:
                return
            if tag == _INTEGER and before == _OCTETS:
                yield int.from_bytes(content, "big", signed=True)
            before = tag & ~_CONSTRUCTED
            if before == _OCTETS:
                yield from self._within(tag, content, depth)
            elif tag & _CONSTRUCTED:
                yield from self.rounds(content, depth + 1)

    def _within(self, tag: int, content: bytes, depth: int) -> Iterator[int]:
        """What an OCTET STRING holds, if that is a structure: a salt or a cipher's text is none."""
        try:
            joined = b"".join(self._pieces(content)) if tag & _CONSTRUCTED else content
        except _Odd:
            return
        if joined[:1] == b"\x30":
            yield from self.rounds(joined, depth + 1)

    def _pieces(self, content: bytes) -> Iterator[bytes]:
        """Of an OCTET STRING that is written in pieces, as BER may."""
        while content:
            tag, piece, content = self._element(content)
            yield b"".join(self._pieces(piece)) if tag & _CONSTRUCTED else piece

    def _element(self, data: bytes) -> _Element:
        """The first element; one of indefinite length, which BER has, ends with two zeros."""
        self._left -= 1
        self.exceeded = self.exceeded or self._left < 0
        if self.exceeded or len(data) < 2 or data[0] & 0x1F == 0x1F:
            raise _Odd
        tag, length, start = data[0], data[1], 2
        if length == 0x80:
            return self._indefinite(data)
        if length > 0x80:
            start = 2 + (length & 0x7F)
            length = int.from_bytes(data[2:start], "big")
        if start + length > len(data):
            raise _Odd
        return _Element(tag, data[start : start + length], data[start + length :])

    def _indefinite(self, data: bytes) -> _Element:
        rest = data[2:]
        while rest[:2] != b"\0\0":
            rest = self._element(rest).rest
        return _Element(data[0], data[2 : len(data) - len(rest)], rest[2:])
