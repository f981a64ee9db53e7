"""Writes the reference of the commands: what `--help` says of each verb, from the click commands themselves."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator

import click

PROGRAMS = {
    "himar": "himar.cli:cli",
    "himar-export": "himar_export.cli:cli",
    "himar-serve": "himar_runtime.service.cli:cli",
    "himar-bench-server": "himar_runtime.bench_server.cli:cli",
}


def program(name: str) -> click.Command:
    """Return the click command of one of PROGRAMS."""
    from importlib import import_module

    module, _, attribute = PROGRAMS[name].partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


def verbs(name: str) -> Iterator[tuple[str, click.Command]]:
    """Give a program's verbs with their click commands; a program without verbs gives itself, as ""."""
    command = program(name)
    if not isinstance(command, click.Group):
        yield "", command
        return
    context = click.Context(command, info_name=name)
    for verb in command.list_commands(context):
        found = command.get_command(context, verb)
        assert found is not None
        yield verb, found


def command_page(name: str) -> str:
    """Return the page of a program in Markdown."""
    parts = [f"# {name}\n"]
    group = program(name)
    if isinstance(group, click.Group):
        parts.append(_prose(group.help or ""))
    for verb, command in verbs(name):
        parts.append(f"## {name} {verb}\n" if verb else "")
        parts.append(_command(name, verb, command))
    return "\n".join(parts)


def _command(name: str, verb: str, command: click.Command) -> str:
    parent = click.Context(program(name), info_name=name) if verb else None
    context = click.Context(command, info_name=verb or name, parent=parent)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = ["```text", " ".join(usage.split()), "```", "", _prose(command.help or "")]
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            family = getattr(parameter, "family", None)
            title = f"Options of {family} alone" if family else "Options"
            meaning = record[1] or ("required" if parameter.required else "optional")
            sections.setdefault(title, []).append((record[0], meaning))
    for title, records in sections.items():
        lines += [f"**{title}**", "", "| option | meaning |", "|---|---|"]
        lines += [f"| <code>{_cell(option)}</code> | {_cell(meaning)} |" for option, meaning in records]
        lines.append("")
    if command.epilog:
        lines += [_prose(command.epilog)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return text as it must stand in a table's cell."""
    return _linked(re.sub(r"([*_|\[\]`~])", r"\\\1", html.escape(" ".join(text.split()), quote=False)))


def _linked(text: str) -> str:
    """Return text whose mentions of pages are links."""
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[docs/\1](../\1)", text)


def _prose(text: str) -> str:
    """Return a help text's paragraphs; those that click leaves as they are (after \\b) become code blocks."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if not paragraph.strip():
            continue
        if paragraph.lstrip().startswith("\b"):
            parts.append("```text\n" + paragraph.replace("\b\n", "").replace("\b", "") + "\n```\n")
        elif paragraph.startswith("Example: "):
            parts.append("```sh\n" + " ".join(paragraph.removeprefix("Example: ").split()) + "\n```\n")
        else:
            escaped = html.escape(" ".join(paragraph.split()), quote=False)
            parts.append(_linked(re.sub(r"([*_\[\]~])", r"\\\1", escaped)) + "\n")
    return "\n".join(parts)
