"""Commands that import a verb's module when the verb is named."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

COMMANDS = ("himar.cli", "himar_export.cli")


@pytest.mark.parametrize("module", COMMANDS)
def test_the_line_of_each_verb_is_the_first_sentence_of_its_help(module: str) -> None:
    cli = import_module(module).cli
    for name, (_, line) in cli.verbs.items():
        command = cli.get_command(click.Context(cli), name)
        assert command.name == name
        assert command.get_short_help_str(limit=1000).rstrip(".") == line


@pytest.mark.parametrize("module", COMMANDS)
def test_help_lists_every_verb_and_imports_none(module: str) -> None:
    code = (
        f"import sys; from {module} import cli, main\n"
        "try: code = main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "loaded = {each.partition(':')[0] for each, _ in cli.verbs.values()} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line[:3].strip()]
    assert listed == sorted(import_module(module).cli.verbs)


@pytest.mark.parametrize("module", COMMANDS)
def test_a_name_that_is_no_verb_is_wrong_usage(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module(module).main
    try:
        code = main(["paint"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "No such command 'paint'" in capsys.readouterr().err
