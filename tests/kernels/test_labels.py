"""Labels that a user writes: read as meant, or refused with the part that is wrong."""

import numpy as np
import pytest

from himar_kernels import InputError, check_labels, parse_labels


def test_numbers_and_ranges():
    assert parse_labels("207, 0,3-5") == [207, 0, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "1,,2", "1-", "-1", "1.5", "3-1"])
def test_text_that_is_no_list(text):
    with pytest.raises(InputError, match=r"neither a number nor a range|runs backwards"):
        parse_labels(text)


@pytest.mark.parametrize("labels", [[], [10], [-1], [1.5], ["1"], [True], "123", 3, None])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(InputError):
        check_labels(labels, classes=10)


def test_the_message_names_the_label_its_place_and_the_range():
    with pytest.raises(InputError, match=r"label 12 \(number 1 of the list\).*0 to 9"):
        check_labels([3, 12], classes=10)


def test_numpy_integers_are_labels():
    assert check_labels(np.array([0, 9], np.int32), classes=10).dtype == np.int64
