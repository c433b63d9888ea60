"""Check that a data set's training images are of classes that can be told apart."""

from __future__ import annotations

import logging

import datasets
import numpy as np

from fedsplit.data.columns import label_array
from fedsplit.errors import DataError
from fedsplit.names import some

_logger = logging.getLogger(__name__)


def check_classes(train: datasets.Dataset, test: datasets.Dataset, column: str, name: str) -> None:
    """Refuse training images of fewer than two classes; warn of classes that have none.

    Raises
    ------
    DataError
        If there is nothing to tell apart.
    """
    names = train.features[column].names
    used = np.unique(label_array(train, column))
    if len(used) < 2:
        only = " and ".join(f"'{names[label]}'" for label in used)
        raise DataError(
            f"The training images of the data set '{name}' are all of the class {only}, so there "
            "is nothing to tell apart. Choose a data set with at least two classes, or another "
            "column with data.label-column."
        )
    if unused := sorted(set(range(len(names))) - set(used.tolist())):
        lost = int(np.isin(label_array(test, column), unused).sum())
        _logger.warning(
            "%d of the %d classes of '%s' have no training image: %s. %d test images are of these "
            "classes.",
            *(len(unused), len(names), name, some([names[label] for label in unused]), lost),
        )
