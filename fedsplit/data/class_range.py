"""Whether every label of a data set is one of its classes: Arrow files and JSON may disagree."""

from __future__ import annotations

import datasets
import pyarrow.compute as pc

from fedsplit.errors import DataError


def check_label_range(dataset: datasets.Dataset, column: str, name: str) -> None:
    """Refuse class labels without a class, and classes whose names are no texts.

    Parameters
    ----------
    dataset : datasets.Dataset
        Of the user, or of a stranger.
    column, name : str
        The column of the labels, and the data set's name for the message.

    Raises
    ------
    DataError
        Names the label and the number of classes.
    """
    feature = dataset.features[column]
    if not isinstance(feature, datasets.ClassLabel):
        return
    if odd := [text for text in feature.names if not isinstance(text, str)]:
        raise DataError(
            f"The column '{column}' of the data set '{name}' has the class {odd[0]!r:.80}, which "
            "is no text. Save it again with texts as names."
        )
    largest = pc.max(dataset.select_columns([column]).with_format("arrow")[:][column]).as_py()
    if largest is not None and largest >= len(feature.names):
        raise DataError(
            f"The column '{column}' of the data set '{name}' has the label {largest}, and only "
            f"{len(feature.names)} classes, numbered from 0. Save it again with the names of all "
            "classes."
        )
