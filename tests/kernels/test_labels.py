"""Labels that a user writes: read as meant, or refused with the part that is wrong."""

import numpy as np
import pytest

from himar_kernels import InputError, check_labels, label_numbers, named_class, parse_labels
from himar_kernels.labels import mistakable_number


def test_numbers_and_ranges():
    assert parse_labels("207, 0,3-5") == [207, 0, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "1,,2", "1-", "-1", "1.5", "3-1"])
def test_text_that_is_no_list(text):
    with pytest.raises(InputError, match=r"neither a number nor a range|runs backwards"):
        parse_labels(text)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("tabby cat, 3 ,owl", ["tabby cat", 3, "owl"]),
        ('"great dane, a dog",5', ["great dane, a dog", 5]),
        ('"10","5-9",10', ["10", "5-9", 10]),
        ('"the ""big"" one"', ['the "big" one']),
        ("n01440764,great-white,5th avenue", ["n01440764", "great-white", "5th avenue"]),
        ("кошка,猫", ["кошка", "猫"]),
    ],
)
def test_names_stand_among_numbers_and_quotes_make_anything_a_name(text, labels):
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    ("text", "reason"),
    [('"abc', "unclosed"), ('"a" b', "unclosed"), ("0-2000000", "more than 1000000"), ("cat,", "''")],
)
def test_quotes_that_do_not_end_and_too_many_labels(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_labels(text)


def test_names_become_numbers():
    names = ["cat", "Great White", "10", "twin", "twin", ""]
    assert label_numbers(["10", 3, "cat"], names, "m") == [2, 3, 0]
    for name, reason in (
        ("great white", "'great white' is not a class of m; the nearest names are 'Great White'"),
        ("zebra", "'zebra' is not a class of m; give its number"),
        ("twin", "the classes 3, 4 of m are all named 'twin'; give a number"),
        ("", "'' is not a class of m"),
    ):
        with pytest.raises(InputError, match=reason):
            label_numbers([name], names, "m")
    for unknown in (None, [], ["", ""]):
        with pytest.raises(InputError, match="m does not know its classes' names; write for example 0,3,5-9"):
            label_numbers(["cat"], unknown, "m")
    assert label_numbers([7], None, "m") == [7]


NAMES = ["goldfish, Carassius auratus", "goldfinch, Carduelis", "Crane", "crane", "", "tench", "Größe"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        (" 05 ", 5),
        ("tench", 5),
        (" TENCH ", 5),
        ("te", 5),
        ("Crane", 2),
        ("crane", 3),
        ("GOLDFIN", 1),
        ("goldfish, Carassius auratus", 0),
        ("grö", 6),
    ],
)
def test_a_class_is_named_by_number_name_or_the_beginning_of_one_name(text, number):
    assert named_class(text, 7, NAMES) == number


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the class is empty; give the name or the number of one."),
        ("7", "7 is not a class of this model; classes are the numbers 0 to 6."),
        ("9" * 30, "is not a class of this model; classes are the numbers 0 to 6."),
        (
            "goldfich",
            "'goldfich' is not a class of this model; the nearest names are 'goldfinch, Carduelis', 'goldfish,",
        ),
        ("zzz", "'zzz' is not a class of this model; give its number."),
        ("GRÖ", "'GRÖ' is not a class of this model; "),
        (
            "gold",
            "'gold' may be 2 classes: 'goldfish, Carassius auratus' (0), 'goldfinch, Carduelis' (1); write more of the "
            "name, or the number.",
        ),
        ("CRANE", "'CRANE' may be 2 classes: 'Crane' (2), 'crane' (3); write more"),
        ("-1", "'-1' is not a class of this model; give its number."),
    ],
)
def test_what_names_no_class_is_a_sentence(text, sentence):
    with pytest.raises(InputError) as refused:
        named_class(text, 7, NAMES)
    assert sentence in str(refused.value)


def test_a_class_of_a_model_without_names_has_a_number():
    assert named_class("3", 7, None) == 3
    with pytest.raises(
        InputError, match="'cat' is no number, and this model does not know its classes' names; give 0 to"
    ):
        named_class("cat", 7, ["", ""])
    many = [f"name {number}" for number in range(9)]
    with pytest.raises(InputError, match=r"'name 3' \(3\), 'name 4' \(4\), …; write more"):
        named_class("name", 9, many)


def test_numbers_that_are_names_of_others_are_warned_of():
    names = ["0", "1", "10", "2", ""]
    assert mistakable_number([0, 1, "2"], names) is None
    assert mistakable_number([2], None) is None
    assert "label 2 is class number 2, named '10'; the class named '2' is number 3" in mistakable_number([0, 2], names)


@pytest.mark.parametrize("labels", [[], [10], [-1], [1.5], ["1"], [True], "123", 3, None])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(InputError):
        check_labels(labels, classes=10)


def test_the_message_names_the_label_its_place_and_the_range():
    with pytest.raises(InputError, match=r"label 12 \(number 1 of the list\).*0 to 9"):
        check_labels([3, 12], classes=10)


def test_numpy_integers_are_labels():
    assert check_labels(np.array([0, 9], np.int32), classes=10).dtype == np.int64
