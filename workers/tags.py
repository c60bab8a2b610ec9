"""Words and a picture inside audio files: title, artist, comment, the software's name, the track's spectrogram.

Owns how each container takes them. Leaves out what they say (the caller knows the job) and the sound
(`workers.mastering`). Equal words and pictures give equal bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mutagen import id3
from mutagen.flac import FLAC, Picture
from PIL import Image

COVER_SIZE: Final = (1_024, 512)
"""A cover's largest width and height; a long track is made narrow, so that it is a picture and not a line."""
SOFTWARE: Final = "riffarm"
_JPEG_QUALITY: Final = 75
_FRONT_COVER: Final = int(id3.PictureType.COVER_FRONT)
_UTF_16: Final = id3.Encoding.UTF16


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says about itself; what is empty is left out."""

    title: str
    comment: str = ""
    artist: str = "riffarm"
    album: str = ""


def write_tags(path: Path, container: Callable[[Path], Any], tags: Tags, cover: Image.Image | None) -> None:
    """Put tags and the cover, if any, into a finished file, in place and without reading its sound.

    `container` is mutagen's class for files of this kind. Raises mutagen.MutagenError when the file is no such file.
    """
    file = container(path)
    if file.tags is None:
        file.add_tags()
    # Players' own name for each; a zero byte would end a text early.
    words = {"title": tags.title, "artist": tags.artist, "album": tags.album, "comment": tags.comment}
    words = {name: text.replace("\0", " ") for name, text in words.items() if text}
    jpeg = None if cover is None else _jpeg_from_image(cover)
    if isinstance(file.tags, id3.ID3):
        _fill_id3(file.tags, words, jpeg)
        # Version 2.3 is what everything reads.
        file.save(v1=0, v2_version=3, padding=_no_padding)
    else:
        _fill_vorbis_comment(file, words, jpeg)
        file.save(padding=_no_padding)


def _fill_id3(frames: id3.ID3, words: dict[str, str], jpeg: bytes | None) -> None:
    frames.clear()
    kinds = {"title": id3.TIT2, "artist": id3.TPE1, "album": id3.TALB}
    for name, kind in kinds.items():
        if name in words:
            frames.add(kind(encoding=_UTF_16, text=words[name]))
    if "comment" in words:
        frames.add(id3.COMM(encoding=_UTF_16, lang="eng", desc="", text=words["comment"]))
    frames.add(id3.TSSE(encoding=_UTF_16, text=SOFTWARE))
    if jpeg:
        frames.add(id3.APIC(encoding=_UTF_16, mime="image/jpeg", type=_FRONT_COVER, desc="", data=jpeg))


def _fill_vorbis_comment(file: Any, words: dict[str, str], jpeg: bytes | None) -> None:
    file.tags.clear()
    for name, text in words.items():
        file.tags[name] = text
    file.tags["encoder"] = SOFTWARE
    if jpeg is None:
        return
    picture = Picture()
    picture.type, picture.mime, picture.data, picture.depth = _FRONT_COVER, "image/jpeg", jpeg, 24
    picture.width, picture.height = Image.open(io.BytesIO(jpeg)).size
    if isinstance(file, FLAC):
        file.add_picture(picture)
    else:
        file.tags["metadata_block_picture"] = base64.b64encode(picture.write()).decode("ascii")


def _jpeg_from_image(image: Image.Image) -> bytes:
    width, height = (min(have, most) for have, most in zip(image.size, COVER_SIZE, strict=True))
    buffer = io.BytesIO()
    image.convert("RGB").resize((width, height), Image.Resampling.BOX).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _no_padding(_: object) -> int:
    return 0
