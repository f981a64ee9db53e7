"""Options of how a model samples: every family's are read and checked; the model's family refuses another's."""

from __future__ import annotations

import click
import pytest

from himar_kernels import InputError
from himar_kernels.families.hi_mar.sampling import SamplingConfig, choose_sampling
from himar_kernels.families.sampling_options import sampling_options, step_options
from himar_kernels.shared.console import run_cli

SEEN: dict[str, object] = {}


@click.command()
@sampling_options
def every(**values: object) -> None:
    SEEN.clear()
    SEEN.update(values)


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (
            "--schedule",
            ["[]", "[[1]]", "[[1], [0, 4], [1, 1, 2, 5]]"],
            ["", "x", "1", "[1]", "[[]]", "[[0.5]]", "[[1, 0]]"],
        ),
        ("--top-k", ["0", "4096"], ["-1", "x"]),
        ("--top-p", ["1", "0.1"], ["0", "1.5", "nan"]),
        ("--mask-guidance", ["0", "2"], ["-1", "inf"]),
        ("--low-steps", ["1"], ["0"]),
        ("--high-diffusion-counts", ["250,50", "9"], ["", "9,", "9.5,9", "1,9", "x"]),
        ("--low-guidances", ["1,2.5", "3"], ["", "1,nan", "-1,2", "1;2"]),
        ("--high-forecast", ["8"], ["0", "1.5"]),
        ("--guidance", ["0"], ["-1"]),
    ],
)
def test_values_of_every_family_are_taken_or_wrong_usage(capsys, option, good, bad):
    for text in good:
        assert run_cli(every, [option, text]) == 0, text
    for text in bad:
        assert run_cli(every, [option, text]) == 2, text
        assert option in capsys.readouterr().err


def test_a_schedule_too_deep_for_a_reader_is_wrong_usage(capsys):
    assert run_cli(every, ["--schedule", "[" * 100_000]) == 2
    assert "is not JSON; write lists of counts, as '[[1], [1, 3]]'." in " ".join(capsys.readouterr().err.split())


def test_what_is_not_given_stays_none():
    run_cli(every, ["--schedule", "[[1], [1, 3]]", "--all-scales"])
    assert SEEN.pop("schedule") == [[1], [1, 3]]
    assert SEEN.pop("all_scales") is True
    assert set(SEEN.values()) == {None}


def test_what_leaves_the_networks_work_as_it_is_can_be_left_out(capsys):
    @step_options
    def command(**values: object) -> None:
        pass

    names = {option.name for option in command.__click_params__}
    assert {"guidance", "low_steps", "schedule", "all_scales"} <= names
    assert not {"temperature", "top_k", "top_p"} & names


def test_a_setting_of_another_family_is_refused():
    named = {"default": SamplingConfig()}
    assert choose_sampling(named, None, None, {"top_k": None}) == SamplingConfig()
    with pytest.raises(InputError, match="top_k is given, but a Hi-MAR model has no such setting; it has low_guidance"):
        choose_sampling(named, None, None, {"top_k": 3})


def test_a_list_that_is_none_says_of_which_numbers_it_must_be(capsys):
    assert run_cli(every, ["--high-diffusion-counts", "9.5,9"]) == 2
    assert "'9.5,9' is no list of whole numbers; write one for each step, as '250,50'." in capsys.readouterr().err
    assert run_cli(every, ["--high-guidances", "1;2"]) == 2
    assert "'1;2' is no list of numbers; write one for each step, as '1,2.5'." in capsys.readouterr().err
