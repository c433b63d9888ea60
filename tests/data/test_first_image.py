from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.config import DataConfig
from fedsplit.data.first_image import image_size
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, picture
from tests.data.strangers import EPS


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_the_size_is_that_of_the_first_image(tmp_path: Path, mode: str, channels: int) -> None:
    image_folder(tmp_path, {"a": 6, "b": 6})
    for path in (tmp_path / "a").iterdir():
        picture(0, mode, size=9).save(path)
    assert image_size(DataConfig(name=str(tmp_path))) == (channels, 9, 9)


@pytest.mark.parametrize(("content", "said"), [(EPS, "is EPS"), (b"no", "cannot be decoded")])
def test_a_first_image_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """Break it: let `datasets` decode the row."""
    image_folder(tmp_path, {"a": 6, "b": 6})
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"The first image of the data set '.*' {said}"):
        image_size(DataConfig(name=str(tmp_path)))
