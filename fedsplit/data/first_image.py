"""The size of a data set's images, as its first one has it."""

from __future__ import annotations

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.image_file import RefusedImageError, open_image
from fedsplit.errors import DataError


def image_size(data: DataConfig, *, look: bool = True) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of a data set's first image.

    Parameters
    ----------
    data : DataConfig
        Which data set.
    look : bool
        As for `load_images`.

    Raises
    ------
    FedSplitError
        As `load_images`.
    """
    images = load_images(data, look=look)
    column = images.image_column
    (file,) = images.train.select_columns([column]).with_format("arrow")[[0]][column].to_pylist()
    first = f"The first image of the data set '{images.name}'"
    try:
        image = open_image(file, images.bounds)
    except RefusedImageError as error:
        raise DataError(f"{first} {error}") from None
    except Exception as error:  # whatever Pillow raises of a broken one
        raise DataError(
            f"{first} cannot be decoded ({type(error).__name__}: {error}). Remove or repair it."
        ) from error
    return (1 if len(image.getbands()) < 3 else 3), image.height, image.width
