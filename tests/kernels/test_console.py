"""How commands end: a sentence and a code, whatever fails; and options that no model could take are wrong usage."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from himar_kernels import BuildError, InputError
from himar_kernels.families.hi_mar.sampling_options import sampling_option
from himar_kernels.families.sampling_options import guidance_option
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.options import (
    SEED,
    THREADS,
    FiniteRange,
    NamedPath,
    device_option,
    npz_option,
    wrong_usage,
)


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("label 12 is not a class."), 1, "error: label 12 is not a class."),
        (FileNotFoundError(2, "No such file or directory", "a/b"), 1, "error: a/b: No such file or directory; check"),
        (OSError("odd"), 1, "error: odd; check the path"),
        (MemoryError(), 1, "error: there is not enough memory; ask for less at once"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "error: there is not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted; nothing half-made was left behind."),
        (ZeroDivisionError("division"), 1, "error: unexpected ZeroDivisionError: division"),
    ],
)
def test_every_failure_is_a_sentence_and_a_code(capsys, error, code, text):
    assert run_cli(failing(error), []) == code
    message = capsys.readouterr().err.strip()
    assert message.startswith(text)
    assert "Traceback" not in message
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            run_cli(failing(error), ["--debug"])


@click.command()
@click.option("--number", type=FiniteRange(0, 10, min_open=True))
@click.option("--any", "anything", type=FiniteRange(min=0))
@click.option("--device", callback=device_option, default="cpu")
@click.option("--guidance", type=float, callback=guidance_option)
@click.option("--low-steps", type=int, callback=sampling_option)
@click.option("--seed", type=SEED)
@click.option("--threads", type=THREADS)
@click.option("--out", type=NamedPath(), callback=npz_option)
def options(**values: object) -> None:
    pass


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("--number", ["10", "1e-300"], ["0", "nan", "inf", "11", "x"]),
        ("--any", ["0", "1e300"], ["nan", "inf", "-1"]),
        (
            "--device",
            ["cpu", "cuda", "cuda:0", "cuda:15"],
            ["", "meta", "cuda:", "cuda:-1", "cuda:99999", "CPU", "cuda:٣"],
        ),
        ("--guidance", ["0", "2.5", "1e6"], ["nan", "-1", "inf", "1e300", "1000001"]),
        ("--low-steps", ["1", "64"], ["0", "-3"]),
        ("--seed", ["0", str(2**64 - 1)], ["-1", str(2**64), "9" * 5000]),
        ("--threads", ["1"], ["0", "99999999999"]),
        ("--out", ["a.npz"], ["", "a.png", "a"]),
    ],
)
def test_option_values_are_taken_or_wrong_usage(capsys, option, good, bad):
    for text in good:
        assert run_cli(options, [option, text]) == 0, text
    for text in bad:
        assert run_cli(options, [option, text]) == 2, text
        assert option in capsys.readouterr().err


def test_a_refusal_names_the_option_that_was_given(capsys):
    run_cli(options, ["--guidance", "-1"])
    assert "guidance is -1.0; it must be a number from 0 to 1000000" in capsys.readouterr().err
    run_cli(options, ["--out", ""])
    assert "the path is empty" in capsys.readouterr().err


def test_paths_come_as_paths():
    assert NamedPath().convert("a", None, None) == Path("a")


def test_a_terminal_without_a_character_costs_nothing():
    code = "import click, himar_kernels.shared.console as c, sys\n@click.command()\ndef f(): print('a → \\udce9')\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(c.run_cli(f, []))"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "a ? ?\n")


def test_errors_about_options_alone_are_wrong_usage():
    with pytest.raises(click.UsageError, match="max_batch is 0"), wrong_usage():
        raise BuildError("max_batch is 0.")
