"""Every command that a page tells people to type exists, with every option that it is given there."""

import re

import pytest

from docs.site.commands import PROGRAMS
from tests.docs import shell
from tests.docs.markdown import ROOT, inline_code, pages
from tests.docs.shell import CPP, EVERYWHERE, commands, of, options_in, options_of

OTHERS: set[str] = set()
"""Options of programs that are not ours: torchrun, pip, tritonserver, trtexec, docker."""


def test_pages_hold_many_commands():
    """What follows would pass on nothing."""
    assert len(of("himar-export")) > 80 and len(of("himar")) > 30 and len(of("himar-serve")) > 5
    assert len(commands()) > 300


@pytest.mark.parametrize("name", PROGRAMS)
def test_verbs_and_options_of_our_commands_exist(name):
    verbs = options_of(name)
    for command in of(name):
        if shell.is_cpp(command):
            continue
        words = [word for word in command.words[1:] if word not in EVERYWHERE]
        verb = "" if "" in verbs else (words[0] if words else None)
        if verb is None or verb in ("…", "COMMAND"):
            continue
        assert verb in verbs, f"{command.place}: {name} has no verb {verb!r} ({' '.join(command.words)})"
        for option in command.options:
            assert option in verbs[verb] | EVERYWHERE, f"{command.place}: {name} {verb} has no option {option}"


@pytest.mark.parametrize("name", CPP)
def test_options_of_the_cpp_programs_exist(name):
    text = "".join((ROOT / file).read_text() for file in CPP[name])
    asked = [command for command in of(name) if shell.is_cpp(command)]
    assert asked
    for command in asked:
        for option in command.options:
            assert f"{option}" in text, f"{command.place}: the C++ {name} has no option {option}"


def test_modules_and_scripts_that_python_is_asked_to_run_exist():
    ran = 0
    for command in commands():
        words = list(command.words)
        python = next((place for place, word in enumerate(words) if re.fullmatch(r"(\S*/)?python3?", word)), None)
        if python is None or python + 1 >= len(words):
            continue
        rest = words[python + 1 :]
        if rest[0] == "-m" and rest[1].partition(".")[0] in ("benchmarks", "tests", "docs", "himar_kernels"):
            file = shell.module_file(rest[1])
            assert file is not None, f"{command.place}: there is no module {rest[1]}"
        elif rest[0].endswith(".py") and "/" in rest[0]:
            file = ROOT / rest[0]
            assert file.is_file(), f"{command.place}: there is no file {rest[0]}"
        else:
            continue
        ran += 1
        for option in shell.Command(command.place, tuple(rest)).options:
            if option != "-m":
                assert option in options_in(file) | EVERYWHERE, f"{command.place}: {file.name} has no option {option}"
    assert ran > 30


def test_make_targets_exist():
    asked = [command for command in commands() if command.words[0] == "make"]
    assert len(asked) > 10
    for command in asked:
        for word in command.words[1:]:
            if re.fullmatch(r"[a-z][\w-]*", word):
                assert word in shell.make_targets(), f"{command.place}: make has no target {word}"


def test_pytest_is_asked_for_paths_that_exist():
    asked = [command for command in commands() if "pytest" in [word.rpartition("/")[2] for word in command.words]]
    assert len(asked) > 10
    for command in asked:
        for word in command.words:
            if word.startswith("tests/"):
                assert next(ROOT.glob(word.partition("::")[0]), None), f"{command.place}: there is no {word}"


def test_extras_that_pip_is_asked_for_exist():
    asked = [word for command in commands() if "pip" in command.words[:4] for word in command.words]
    named = [
        extra
        for word in asked
        for found in re.findall(r"^(?:himar|\.)\[([\w,-]+)\]", word)
        for extra in found.split(",")
    ]
    assert len(named) > 10
    assert set(named) <= shell.extras()


def test_bare_options_in_backticks_are_those_of_some_program():
    known = {name for program in PROGRAMS for verb in options_of(program).values() for name in verb}
    known |= (
        EVERYWHERE
        | OTHERS
        | set(re.findall(r'"(--[a-z][\w-]*)"', "".join((ROOT / f).read_text() for fs in CPP.values() for f in fs)))
    )
    for path in (ROOT / "benchmarks").rglob("*.py"):
        known |= options_in(path)
    for page in pages():
        for code in inline_code(page):
            match = re.match(r"(--[a-z][\w-]*)\b", code)
            if match:
                assert match[1] in known, f"{page} names the option {match[1]}, which no program has"


def test_verbs_that_are_named_with_an_option_have_it():
    """As in `generate --ray`, without the program's name."""
    verbs = {name: verb for program in PROGRAMS for name, verb in options_of(program).items() if name}
    named = 0
    for page in pages():
        for code in inline_code(page):
            words = code.split()
            if words and words[0] in verbs and len(words) > 1 and words[1].startswith("--"):
                named += 1
                for option in shell.Command(page, tuple(words)).options:
                    assert option in verbs[words[0]] | EVERYWHERE, f"{page}: `{code}`: {words[0]} has no {option}"
    assert named > 5


def test_a_wrong_command_is_noticed():
    text = "torchrun --no-python himar train \\\n    --config digits --epoch=3  # --not-this\n"
    text += "HIMAR_X=1 make docs | himar-export construct b"
    first, second, third = shell.split(text, "page")
    assert first.options == ["--no-python", "--config", "--epoch"] and "--epoch" not in options_of("himar")["train"]
    assert second.words == ("make", "docs") and third.words[1] not in options_of("himar-export")
