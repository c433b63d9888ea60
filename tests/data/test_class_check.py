from __future__ import annotations

import logging

import pytest

from fedsplit.data.class_check import check_classes
from tests.data.pictures import labelled


def test_classes_without_training_images_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Labels that begin with 1, or a class that only the test set has. Break it: say nothing."""
    train, test = (labelled(labels, ["a", "b", "c", "d"]) for labels in ([0, 1, 1], [0, 3, 3, 1]))
    with caplog.at_level(logging.WARNING):
        check_classes(train, test, "label", "photos")
    assert "2 of the 4 classes of 'photos' have no training image: c, d." in caplog.text
    assert "2 test images are of these classes" in caplog.text
    caplog.clear()
    check_classes(test, train, "label", "photos")
    assert "1 of the 4 classes" in caplog.text
    assert "0 test images are" in caplog.text
