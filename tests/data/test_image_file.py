"""Images of strangers: nothing starts, nothing is fetched, nothing waits, memory is bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from fedsplit.config import Config, DataConfig
from fedsplit.data import decode as decode_module
from fedsplit.data.catalog import load_images
from fedsplit.data.decode import decode
from fedsplit.data.image_file import (
    FORMATS,
    ImageBounds,
    RefusedImageError,
    check_undecoded,
    format_of,
    is_readable,
    open_image,
)
from fedsplit.data.shards import load_shard
from fedsplit.errors import DataError
from tests.data.pictures import SMALL, image_folder, picture
from tests.data.strangers import EPS, SPECIAL, chunk, encoded, png_of, png_that_says


def opened(content: bytes, max_pixels: int = 10**8) -> Image.Image:
    return open_image({"bytes": content, "path": None}, ImageBounds(max_pixels))


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file that is there once somebody has started Ghostscript."""
    seen = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{seen}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return seen


def test_the_trap_works(started: Path, tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_bytes(EPS)
    with pytest.raises(OSError, match=r"cannot|gs|file"), Image.open(tmp_path / "a.eps") as image:
        image.load()
    assert started.exists()


def test_an_eps_called_png_starts_no_program(started: Path, tmp_path: Path) -> None:
    """Break it: let Pillow open any format."""
    data = image_folder(tmp_path / "data", {"a": 3, "b": 3})
    for path in (data / "a").iterdir():
        path.write_bytes(EPS)
    with pytest.raises(DataError, match=r"row .*column 'image', file .*a/00\d\.png, is") as caught:
        load_shard(Config(data=DataConfig(name=str(data))), 0, 1, SMALL)
    said = str(caught.value)
    assert ".png, is EPS, whatever its name says" in said
    assert "formats that are read are BMP, GIF, JPEG, PNG, PPM, TIFF and WEBP" in said
    assert "Convert it, for example to PNG, or leave out" in said
    assert not started.exists()


def test_a_file_without_a_suffix_is_not_tried_in_other_formats(
    started: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo").write_bytes(EPS)
    assert not is_readable(tmp_path / "photo")
    (tmp_path / "photo").write_bytes(encoded(picture(1)))
    assert is_readable(tmp_path / "photo")
    assert not started.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_usual_formats_are_read(kind: str) -> None:
    image = picture(1, "RGB")
    exact = kind not in ("JPEG", "GIF", "WEBP")
    found = opened(encoded(image, kind))
    assert found.size == (8, 8)
    assert not exact or found.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (EPS, "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"8BPS\0\1" + bytes(30), "PSD"),
        (b"\xd7\xcd\xc6\x9a\0\0" + bytes(40), "WMF"),
    ],
)
def test_the_real_format_is_named(content: bytes, name: str) -> None:
    assert format_of(content[:32]) == name
    with pytest.raises(RefusedImageError, match=f"is {name}, whatever its name says"):
        opened(content)


def test_an_image_that_somebody_else_opened_may_be_decoded_only_if_its_format_is_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.eps").write_bytes(EPS)
    with Image.open(tmp_path / "a.eps") as image, pytest.raises(RefusedImageError, match="is EPS"):
        check_undecoded(image)
    check_undecoded(picture(1))
    picture(1).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        check_undecoded(image)


@pytest.mark.parametrize(
    "address", ["https://10.255.255.1/1.png", "s3://b/1.png", "hf://x", "zip://1.png::/tmp/a.zip"]
)
def test_an_address_is_refused_and_not_fetched(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: let `datasets` open the path."""
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(RefusedImageError, match=r"is at the address .* fetches nothing"):
        open_image({"bytes": None, "path": address}, ImageBounds())


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("called", "make"), SPECIAL.items(), ids=["pipe", "socket", "device"])
def test_only_regular_files_are_read(
    tmp_path: Path, called: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "1.png")
    file = {"bytes": None, "path": str(tmp_path / "1.png")}
    with pytest.raises(DataError, match=rf"1\.png, cannot be read: .* is {called}, not a file"):
        decode(file, place=lambda: "row 0", channels=1)


def test_relative_paths_begin_in_the_data_sets_folder(tmp_path: Path) -> None:
    picture(3).save(tmp_path / "1.png")
    found = open_image({"bytes": None, "path": "1.png"}, ImageBounds(folder=str(tmp_path)))
    assert found.tobytes() == picture(3).tobytes()


def test_the_limit_of_pixels_is_that_of_the_header() -> None:
    """Break it: compare after the image is decoded, or with the wrong sign."""
    assert opened(encoded(Image.new("L", (8, 8))), 64).size == (8, 8)
    broken = encoded(Image.new("L", (13, 5)))[:45]  # nothing but its header
    with pytest.raises(RefusedImageError, match=r"13 x 5 = 65 pixels, and data.max-pixels = 64"):
        opened(broken, 64)


def test_pillows_own_limit_is_told_alike() -> None:
    with pytest.raises(RefusedImageError, match=r"too large: .*200000000 pixels.* data.max-pixels"):
        opened(png_of(20_000, 10_000, 1))


MEMORY = """
import re, sys
from pathlib import Path
from fedsplit.data.decode import decode
from fedsplit.errors import DataError

content = sys.stdin.buffer.read()
# Not `getrusage`: its peak begins with that of the process which has started this one.
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    decode({"bytes": content}, place=lambda: "row 0", channels=3)
except DataError as error:
    print(error)
print((peak() - before) // 1024)
"""


def megabytes_of(content: bytes) -> tuple[str, int]:
    """Return the error that decoding an image raises, and by how many MB the peak grows."""
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=100)
    *said, size = done.stdout.decode().splitlines()
    return " ".join(said), int(size)


@pytest.mark.slow
def test_a_small_file_of_many_pixels_takes_no_memory() -> None:
    """Break it: raise the default of data.max-pixels to 100 million. The file then takes 440 MB."""
    content = png_that_says(9400, 9400)
    assert len(content) < 20_000
    said, size = megabytes_of(content)
    assert "9400 x 9400 = 88360000 pixels, and data.max-pixels = 50000000" in said
    assert size < 30


@pytest.mark.slow
def test_the_largest_images_take_no_copies_of_themselves() -> None:
    """Break it: convert the image whole. Its transparent pixels then take 760 MB, not 450."""
    content = encoded(Image.new("RGBA", (7071, 7071), (9, 9, 9, 9)), compress_level=1)
    said, size = megabytes_of(content)
    assert said == ""
    assert size < 550


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "CMYK"])
def test_large_images_have_the_pixels_that_they_have_in_one_piece(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: let the strips overlap, or lose a palette or a transparent level."""
    image = picture(4, "RGB", size=37)
    if mode == "I;16":
        values = np.random.default_rng(0).integers(0, 65536, (37, 37), dtype=np.uint16)
        image = Image.fromarray(values)
    else:
        image = image.convert(mode)
    options: dict[str, object] = {"transparency": 1} if mode == "P" else {}
    content = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **options)
    for channels in (1, 3):
        whole = decode({"bytes": content}, place=str, channels=channels)
        with monkeypatch.context() as patch:
            patch.setattr(decode_module, "_STRIP_PIXELS", 100)
            strips = decode({"bytes": content}, place=str, channels=channels)
        assert strips.mode == whole.mode
        assert strips.tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "MPO", "PNG", "TIFF", "WEBP"])
def test_only_the_first_frame_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (250, 130, 10)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert opened(content).convert("RGB").getpixel((4, 4))[0] > 240  # type: ignore[index]


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_what_unpacks_to_too_much_text_is_an_error(name: bytes) -> None:
    """Pillow's own limits are on. Break it: set PngImagePlugin.MAX_TEXT_CHUNK to 2**30."""
    bomb = chunk(name, b"x\0\0" + zlib.compress(bytes(64 * 2**20), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
    content = png_of(8, 8, 8, *[bomb] * 3, pixels)
    assert len(content) < 250_000
    with pytest.raises(ValueError, match="Decompressed data too large"):
        opened(content)


def test_images_that_are_refused_can_be_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = image_folder(tmp_path, {"a": 6, "b": 6})
    (data / "a" / "000.png").write_bytes(EPS)
    picture(9, size=90).save(data / "b" / "000.png")
    config = DataConfig(name=str(data), on_error="skip", max_pixels=8000)
    images = load_images(config)
    assert len(images.train) + len(images.test) == 10
    assert "is EPS" in caplog.text
    assert "90 x 90 = 8100 pixels, and data.max-pixels = 8000" in caplog.text


def test_the_limit_of_a_config_reaches_the_clients() -> None:
    """Break it: do not hand the bounds of a data set to its shards."""
    with pytest.raises(DataError, match=r"28 x 28 = 784 pixels, and data.max-pixels = 783"):
        load_shard(Config.load({"data.max-pixels": 783}), 0, 10, SMALL)
    load_shard(Config.load({"data.max-pixels": 784}), 0, 10, SMALL)
