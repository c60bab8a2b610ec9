"""Hostile bodies: JSON that is deep, long, doubled or no number; uploads that are something else; webhooks inside."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import soundfile
from PIL import Image

from tests.hostile.cases_ids import Case, Send
from tests.hostile.rig import CLIP, picture

WRONG_FIELD: Final = {422}
NO_JSON: Final = {400, 415, 422}
NO_UPLOAD: Final = {400, 413, 415, 422}


URLS: Final = """
    http://example.com/ https://127.0.0.1/ https://localhost/ https://LOCALHOST./ https://[::1]/ https://0.0.0.0/ https://0/
    https://127.1/ https://2130706433/ https://0x7f000001/ https://0177.0.0.1/ https://10.0.0.1/ https://172.16.0.1/
    https://192.168.0.1/ https://169.254.169.254/latest/meta-data/ https://100.64.0.1/ https://192.0.0.1/ https://192.0.2.1/
    https://198.18.0.1/ https://198.51.100.1/ https://203.0.113.1/ https://224.0.0.1/ https://240.0.0.1/
    https://255.255.255.255/ https://[::]/ https://[::ffff:127.0.0.1]/ https://[::ffff:7f00:1]/ https://[::127.0.0.1]/
    https://[64:ff9b::7f00:1]/ https://[64:ff9b:1::7f00:1]/ https://[2002:7f00:1::]/ https://[2001::1]/
    https://[2001:db8::1]/ https://[fc00::1]/ https://[fd00:ec2::254]/ https://[fe80::1]/ https://[fe80::1%25eth0]/
    https://[ff02::1]/ https://[100::1]/ https://user:password@example.com/ https://example.com@127.0.0.1/
    https://127.0.0.1#@example.com/ https://example.com:0/ https://example.com:99999/ https:///x https:// //example.com/
    ftp://example.com/ file:///etc/passwd gopher://127.0.0.1:6379/_FLUSHALL javascript:alert(1) data:text/plain,x
    https://①②⑦.⓪.⓪.①/ https://127。0。0。1/
"""
"""Into this machine, its network and its cloud's, in every spelling; or no URL to post to."""
AWKWARD_URLS: Final = (
    "https://exa mple.com/",
    "https://example.com/\r\nX-Evil: 1",
    "https://example.com/\0",
    f"https://{'a' * 2_100}.com/",
)


def posted(content: bytes, media_type: str = "application/json", path: str = "/v1/jobs", **headers: str) -> Send:
    return lambda rig: rig.call("POST", path, content=content, headers={"content-type": media_type, **headers})


def _clip(**fields: Any) -> bytes:
    return json.dumps({**CLIP, **fields}).encode()


def _clip_with(text: str) -> bytes:
    """A clip with a field in raw JSON, which no encoder would write."""
    return b'{"type": "clip", "prompt": "a", ' + text.encode() + b"}"


def documents() -> Iterator[Case]:
    """Bodies that are no request at all."""
    wrong: dict[str, bytes] = {
        "nothing": b"",
        "half a document": b'{"type": "clip", "pro',
        "two documents": b'{"type": "clip", "prompt": "a"}{}',
        "100,000 lists": b"[" * 100_000,
        "100,000 closed lists": b"[" * 100_000 + b"]" * 100_000,
        "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "NULs": b"\0" * 100,
        "UTF-16": json.dumps(CLIP).encode("utf-16"),
        "UTF-32": json.dumps(CLIP).encode("utf-32"),
        "broken UTF-8": b'{"type": "clip", "prompt": "\xff\xfe"}',
        "overlong UTF-8": b'{"type": "clip", "prompt": "\xc0\xaf"}',
        "a comment": b'{"type": "clip", /* */ "prompt": "a"}',
        "a trailing comma": b'{"type": "clip", "prompt": "a",}',
        "single quotes": b"{'type': 'clip', 'prompt': 'a'}",
        "a list": b"[1, 2]",
        "a number": b"5",
        "text": b'"clip"',
        "true": b"true",
        "null": b"null",
        "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "YAML": b"!!python/object/apply:os.system ['id']",
        "a pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    }
    for name, content in wrong.items():
        yield Case(f"a body of {name}", posted(content), NO_JSON)
    yield Case("10 MB of lists", posted(b"[" * 10_000_000), {413})
    yield Case("10 MB of text", posted(_clip(prompt="a" * 10_000_000)), {413})
    for name in ("prompt", "type", "seed", "labels"):
        first, second = (
            '"prompt": "b"',
            {"prompt": '"c"', "type": '"track"', "seed": '1, "seed": 2', "labels": '{}, "labels": {}'}[name],
        )
        yield Case(
            f"{name} twice",
            posted(
                _clip_with(f'{first if name == "prompt" else ""}{", " if name == "prompt" else ""}"{name}": {second}')
            ),
            NO_JSON,
        )
    for media_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "image/png",
        "application/xml",
        "",
    ):
        yield Case(f"JSON declared as {media_type or 'nothing'}", posted(_clip(), media_type), NO_JSON)
    yield Case("compressed JSON", posted(zlib.compress(_clip()), **{"content-encoding": "deflate"}), NO_JSON)


def fields() -> Iterator[Case]:
    """Numbers that are none, texts that are too long, and what is not meant to be there."""
    raw = {
        "a seed of NaN": '"seed": NaN',
        "a length of NaN": '"duration_s": NaN',
        "an endless length": '"duration_s": Infinity',
        "a length of minus infinity": '"duration_s": -Infinity',
        "a length of 1e400": '"duration_s": 1e400',
        "a length of -1e400": '"duration_s": -1e400',
        "a length of 1e-400": '"duration_s": 1e-400',
        "a seed of 4,000 digits": f'"seed": {"9" * 4_000}',
        "a length of 5,000 digits": f'"duration_s": {"9" * 5_000}',
        "a seed in hexadecimal": '"seed": 0x10',
        "a seed with a plus": '"seed": +1',
        "a seed with zeros": '"seed": 01',
        "a lone surrogate": '"negative_prompt": "\\ud800"',
        "surrogates the wrong way round": '"negative_prompt": "\\udc00\\ud800"',
        "an escaped NUL": '"negative_prompt": "a\\u0000b"',
        "a label of a lone surrogate": '"labels": {"\\ud800": "a"}',
        "a prototype": '"__proto__": {"priority": "interactive"}',
        "a constructor": '"constructor": {"prototype": {}}',
    }
    for name, text in raw.items():
        yield Case(name, posted(_clip_with(text)), NO_JSON)
    wrong: dict[str, dict[str, Any]] = {
        "seed -1": {"seed": -1},
        "seed 2^32": {"seed": 2**32},
        "seed 1.5": {"seed": 1.5},
        "seed as text": {"seed": "1"},
        "seed true": {"seed": True},
        "variations 0": {"variations": 0},
        "variations -1": {"variations": -1},
        "variations 65": {"variations": 65},
        "variations 2^63": {"variations": 2**63},
        "steps 0": {"num_inference_steps": 0},
        "steps 10^9": {"num_inference_steps": 10**9},
        "strength 2": {"denoising_strength": 2},
        "strength -0.1": {"denoising_strength": -0.1},
        "guidance 10^9": {"guidance_scale": 10**9},
        "length 0": {"duration_s": 0},
        "length -1": {"duration_s": -1},
        "a year": {"duration_s": 3.2e7},
        "64 times ten hours": {"variations": 64, "duration_s": 36_000},
        "a prompt of nothing": {"prompt": ""},
        "a prompt of blanks": {"prompt": " \t\n"},
        "a prompt of 501": {"prompt": "a" * 501},
        "a prompt as a list": {"prompt": ["a"]},
        "a prompt as an object": {"prompt": {"$ne": 1}},
        "brackets without end": {"prompt": "(" * 400},
        "a seed image by path": {"seed_image": "../../etc/passwd"},
        "a seed image by URL": {"seed_image": "http://169.254.169.254/"},
        "a seed image by file URL": {"seed_image": "file:///etc/passwd"},
        "a seed image with NUL": {"seed_image": "og_beat\0"},
        "a model by path": {"model": "../../models/riffarm-mini"},
        "a model by URL": {"model": "https://example.com/model"},
        "a model with a queue's name": {"model": "riffarm-mini:interactive"},
        "a format by path": {"formats": ["../flac"]},
        "a format a thousand times": {"formats": ["flac"] * 1_000},
        "17 labels": {"labels": {str(number): "a" for number in range(17)}},
        "a label of 64": {"labels": {"a" * 64: "b"}},
        "a label's value of 256": {"labels": {"a": "b" * 256}},
        "a label as an object": {"labels": {"a": {"b": "c"}}},
        "a priority of one's own": {"priority": "root"},
        "a tenant of one's own": {"tenant": "victim"},
        "an id of one's own": {"id": "job_0"},
        "a status of one's own": {"status": "succeeded"},
        "an output anywhere": {"output": {"bucket": "victim", "prefix": "../"}},
        "an output among the farm's own": {"output": {"bucket": "riffarm", "prefix": "keys"}},
        "an output to a bucket by path": {"output": {"bucket": "../victim"}},
        "an output to another server": {"output": {"bucket": "victim", "endpoint_url": "http://169.254.169.254/"}},
        "an output in a hidden file": {"output": {"bucket": "victim", "prefix": "a/.writing-0"}},
        "an expiry of 0": {"expires_in_s": 0},
        "an expiry of -1": {"expires_in_s": -1},
        "an expiry of 10^30": {"expires_in_s": 10**30},
    }
    for name, change in wrong.items():
        yield Case(name, posted(_clip(**change)), WRONG_FIELD)
    keyframes: dict[str, Any] = {
        "257 keyframes": [{"prompt": "a"}] * 257,
        "keyframes in the past": [{"prompt": "a", "at_s": -1}],
        "keyframes the wrong way round": [{"prompt": "a", "at_s": 9}, {"prompt": "b", "at_s": 1}],
        "keyframes of no kind": [5],
        "a keyframe with a key": [{"prompt": "a", "key": "b"}],
    }
    for name, value in keyframes.items():
        yield Case(
            name, posted(json.dumps({"type": "track", "keyframes": value, "duration_s": 40.96}).encode()), WRONG_FIELD
        )


def webhooks() -> Iterator[Case]:
    """URLs that lead into the farm's own network, in every spelling, or nowhere."""
    for url in (*URLS.split(), *AWKWARD_URLS):
        yield Case(f"a webhook to {url[:40]!r}", posted(_clip(webhook={"url": url})), WRONG_FIELD)
    yield Case("a webhook as text", posted(_clip(webhook="https://example.com/")), WRONG_FIELD)
    yield Case(
        "a webhook with headers of its own",
        posted(_clip(webhook={"url": "https://example.com/", "headers": {}})),
        WRONG_FIELD,
    )
    yield Case(
        "a webhook for nothing", posted(_clip(webhook={"url": "https://example.com/", "events": []})), WRONG_FIELD
    )


def uploaded(content: bytes, name: str = "a.png", media_type: str = "image/png") -> Send:
    return lambda rig: rig.call("POST", "/v1/uploads", files={"content": (name, content, media_type)})


def uploads() -> Iterator[Case]:
    """Files that are something else than they say, or far larger when they are opened."""
    wrong = {
        "nothing": b"",
        "text": b"just text",
        "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "a GIF": _gif(),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj<<>>endobj",
        "a ZIP": _zip(),
        "an ELF": b"\x7fELF\x02\x01\x01" + b"\0" * 57,
        "a PNG cut short": picture()[:-30],
        "a PNG with a wrong sum": picture()[:-20] + b"\0\0\0\0" + picture()[-16:],
        "a PNG of no size": _png(0, 0),
        "a PNG of 100,000 by 100,000": _png(100_000, 100_000),
        "a PNG of 2^31 by 1": _png(2**31 - 1, 1),
        "a PNG with a text bomb": _png(8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 300_000_000, 9))),
        "a FLAC of hours of silence": _silence("FLAC"),
        "an Ogg of hours of silence": _silence("OGG"),
        "a FLAC header alone": b"fLaC" + b"\0" * 40,
        "a WAV that lies of its length": _wav(44_100, 10**6) + b"\0" * 100,
        "a WAV of no rate": _wav(0, 0),
        "an MP3 of noise": b"ID3\x04\0\0\0\0\0\0" + bytes(range(256)) * 20,
        "a playlist": b"#EXTM3U\nfile:///etc/passwd\n",
    }
    for name, content in wrong.items():
        yield Case(f"an upload of {name}", uploaded(content), NO_UPLOAD)
        yield Case(f"an upload of {name}, called a sound", uploaded(content, "a.flac", "audio/flac"), NO_UPLOAD)
    yield Case("an upload that is no form", posted(picture(), "image/png", "/v1/uploads"), NO_UPLOAD)
    yield Case("a form without its boundary", posted(b"--x\r\n", "multipart/form-data", "/v1/uploads"), NO_UPLOAD)
    yield Case(
        "a form that never ends",
        posted(
            b"--x\r\nContent-Disposition: form-data; name=content; filename=a\r\n\r\nabc",
            "multipart/form-data; boundary=x",
            "/v1/uploads",
        ),
        NO_UPLOAD,
    )
    yield Case(
        "a form of 2,000 parts", posted(_form(2_000), "multipart/form-data; boundary=x", "/v1/uploads"), NO_UPLOAD
    )
    yield Case("a form without the file", posted(_form(1), "multipart/form-data; boundary=x", "/v1/uploads"), NO_UPLOAD)
    yield Case(
        "a part with 10,000 headers",
        posted(
            b"--x\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", "/v1/uploads"
        ),
        NO_UPLOAD,
    )


def _gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    return buffer.getvalue()


def _wav(rate_hz: int, declared_bytes: int) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    size = struct.pack("<I", declared_bytes)
    return b"RIFF" + size + b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + size


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../etc/cron.d/x", b"\0" * 1_000_000)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that says this size, with next to nothing behind it."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(b"\0" * 1_000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + _chunk(b"IEND", b"")


def _silence(container: str) -> bytes:
    """Hours of silence in little room."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8_000, 1, format=container) as file:
        for _ in range(100):
            file.write(np.zeros(8_000 * 60, np.float32))
    return buffer.getvalue()


def _form(parts: int) -> bytes:
    part = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\na\r\n'
    return part * parts + b"--x--\r\n"
