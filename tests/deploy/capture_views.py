"""What captured bytes say when they are unpacked: HTTP bodies, text encodings, compression, in each other."""

from __future__ import annotations

import base64
import binascii
import bz2
import lzma
import re
import struct
import urllib.parse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

DEPTH = 4  # of encodings within each other
MOST = 64 * 1024 * 1024  # bytes of one unpacked view
BASE64 = re.compile(rb"[A-Za-z0-9+/_-](?:[A-Za-z0-9+/_-]|\r?\n){14,}")
HEXADECIMAL = re.compile(rb"(?:[0-9a-fA-F]{2}[ :]?){8,}")
ESCAPES = re.compile(rb"\\u([0-9a-fA-F]{4})")
PACKED = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08|PK\x03\x04|BZh[1-9]|\xfd7zXZ\x00")
APART = b"\0\0"  # between the runs of one view: many small views would take long
_PLAIN = bytes.maketrans(b"-_", b"+/")
HEAD = re.compile(rb"(?:[A-Z]{3,8} [^\r\n]{1,4096} HTTP/1\.[01]|HTTP/1\.[01] \d{3}[^\r\n]*)\r\n")


@dataclass(frozen=True)
class View:
    """Bytes, and the way to them."""

    where: str
    content: bytes


@dataclass(frozen=True)
class Exchange:
    """One HTTP message.

    Attributes:
        start: its first line.
        headers: names in lower case.
        body: without the framing of chunks.
    """

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Of a request."""
        return self.start.split(" ")[1]


def views(raw: bytes, name: str) -> Iterator[View]:
    """`raw` itself, and everything that it unfolds to."""
    seen = {raw}
    todo = [(View(name, raw), 0)]
    for number, message in enumerate(http_messages(raw)):
        if message.body and message.body not in seen:
            seen.add(message.body)
            todo.append((View(f"{name} > body {number} ({message.start[:60]})", message.body), 0))
    while todo:
        view, depth = todo.pop()
        yield view
        if depth == DEPTH:
            continue
        for how, content in unfolded(view.content):
            if len(content) >= 4 and content not in seen:
                seen.add(content)
                todo.append((View(f"{view.where} > {how}", content), depth + 1))


def unfolded(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """(how, content) of everything in `raw` that can be read as an encoding of something."""
    runs = [re.sub(rb"\s", b"", match[0]).translate(_PLAIN) for match in BASE64.finditer(raw)]
    for shift in range(4) if runs else ():  # text before a run may look like a part of it
        cuts = [run[shift : len(run) - 1 if (len(run) - shift) % 4 == 1 else None] for run in runs]
        yield "base64", APART.join(base64.b64decode(cut + b"=" * (-len(cut) % 4)) for cut in cuts)
    digits = [re.sub(rb"[ :]", b"", match[0]) for match in HEXADECIMAL.finditer(raw)]
    for shift in range(2) if digits else ():
        cuts = [run[shift : shift + (len(run) - shift) // 2 * 2] for run in digits]
        yield "hexadecimal", APART.join(binascii.unhexlify(cut) for cut in cuts)
    if raw.count(b"%") > 3:
        yield "percent escapes", urllib.parse.unquote_to_bytes(raw)
    if b"\\u" in raw:
        yield (
            "JSON escapes",
            ESCAPES.sub(lambda m: chr(int(m[1], 16)).encode("utf-8", "surrogatepass"), raw),
        )
    for match in PACKED.finditer(raw):
        content = _inflated(raw, match.start())
        if content:
            yield "compression", content


def _inflated(raw: bytes, at: int) -> bytes:
    """What is compressed from `at` on; empty where nothing is."""
    head = raw[at : at + 4]
    if head[:2] == b"PK":
        if len(raw) < at + 30:
            return b""
        names, extra = struct.unpack_from("<HH", raw, at + 26)
        return _decompressed(zlib.decompressobj(-15), raw[at + 30 + names + extra :])
    if head[:2] == b"\x1f\x8b":
        return _decompressed(zlib.decompressobj(31), raw[at:])
    if head[:3] == b"BZh":
        return _decompressed(bz2.BZ2Decompressor(), raw[at:])
    if head[:1] == b"\xfd":
        return _decompressed(lzma.LZMADecompressor(), raw[at:])
    return _decompressed(zlib.decompressobj(), raw[at:])


def _decompressed(how: object, raw: bytes) -> bytes:
    """As much as can be read, in small steps: a damaged end hides no beginning."""
    found = bytearray()
    for first in range(0, len(raw), 4096):
        try:
            found += how.decompress(raw[first : first + 4096])  # type: ignore[attr-defined]
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
            break
        if how.eof or len(found) > MOST:  # type: ignore[attr-defined]
            break
    return bytes(found)


def http_messages(raw: bytes) -> list[Exchange]:
    """The HTTP/1.1 messages of one direction of a connection; what cannot be read as one is left out."""
    found, at = list[Exchange](), 0
    while (match := HEAD.search(raw, at)) is not None:
        end = raw.find(b"\r\n\r\n", match.start())
        if end < 0:
            break
        lines = raw[match.start() : end].decode("latin-1").split("\r\n")
        headers = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in lines[1:])
        }
        body, at = _body(raw, end + 4, headers)
        found.append(Exchange(lines[0], headers, body))
    return found


def _body(raw: bytes, at: int, headers: dict[str, str]) -> tuple[bytes, int]:
    if "chunked" in headers.get("transfer-encoding", ""):
        parts = bytearray()
        while (end := raw.find(b"\r\n", at)) >= 0:
            try:
                size = int(raw[at:end].split(b";")[0], 16)
            except ValueError:
                return bytes(parts), at
            parts += raw[end + 2 : end + 2 + size]
            at = end + 4 + size
            if size == 0:
                break
        return bytes(parts), at
    size = int(headers.get("content-length", "0") or 0)
    return raw[at : at + size], at + size
