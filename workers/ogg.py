"""Serial numbers of Ogg files, so that equal sound gives equal bytes.

Owns that one rewrite: the encoder numbers its stream at random, which changes every page and its checksum. Leaves out
everything inside the pages, and encoding (`workers.mastering`).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

_SERIAL: Final = (1).to_bytes(4, "little")
_HEADER_BYTES: Final = 27
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def set_serial(path: Path) -> None:
    """Give the one stream in the Ogg file `path` the serial number 1, in place.

    Raises ValueError when the file is not made of whole Ogg pages.
    """
    with path.open("r+b") as file:
        while header := file.read(_HEADER_BYTES):
            if len(header) < _HEADER_BYTES or not header.startswith(b"OggS"):
                raise ValueError(f"{path.name} is not an Ogg file")
            lengths = file.read(header[26])
            content = file.read(sum(lengths))
            header = header[:14] + _SERIAL + header[18:22] + bytes(4) + header[26:]
            checksum = _checksum(header + lengths + content).to_bytes(4, "little")
            file.seek(-len(header) - len(lengths) - len(content), 1)
            file.write(header[:22] + checksum + header[26:])
            file.seek(len(lengths) + len(content), 1)


def _checksum(page: bytes) -> int:
    """Ogg's CRC: zlib's polynomial with the bits the other way round, and nothing inverted."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
