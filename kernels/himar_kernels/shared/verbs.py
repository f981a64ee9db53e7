"""Defines a command of several verbs that imports a verb's module when the verb is named: light ones start at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A click group whose verbs are imported on use; `--help` imports none of them.

    verbs: a verb's name → where its click command is, as "module:attribute", and the line that `--help` shows of it,
    which is the first sentence of the command's own help.
    """

    def __init__(self, *arguments: Any, verbs: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names in alphabetical order."""
        return sorted(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb and return it; None for a name that is no verb."""
        if cmd_name not in self.verbs:
            return None
        module, _, attribute = self.verbs[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs and their lines, as click does of commands that it has imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.verbs[name][1]) for name in self.list_commands(ctx)])
