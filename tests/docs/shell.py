"""Finds the commands that pages tell people to type, and what they may be called with."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from docs.site.commands import program
from tests.docs.markdown import ROOT, blocks, inline_code, pages

SHELLS = ("sh", "bash", "console", "shell")
EVERYWHERE = {"--help", "-h", "--version", "--debug"}
WRAPPERS = {"time", "nice", "nohup", "exec", "-v", "--no-python"}
"""Words right before a program that they run: `/usr/bin/time -v`, torchrun's --no-python."""

CPP = {
    "himar-generate": ("runtime/cpp/examples/arguments.cpp", "runtime/cpp/common/edit_files.cpp"),
    "himar-serve": ("runtime/cpp/service/arguments.cpp",),
}
"""The C++ programs and the files that read their options."""


@dataclass(frozen=True)
class Command:
    """A command of a page: its words, and where it stands."""

    place: str
    words: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        """The options among its words, without values; a word after a bare "--" is none."""
        words = self.words[: self.words.index("--")] if "--" in self.words else self.words
        found = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-zA-Z]", word)]
        return [option for option in found if not re.search(r"[…*]", option)]


def split(text: str, place: str) -> Iterator[Command]:
    """Give the simple commands of a shell text: continued lines joined, comments, pipes and assignments taken away."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        try:
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="();<>|&")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a quote that another line closes: no command of ours
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if re.fullmatch(r"[();|&]+", word):
                if command:
                    yield Command(place, tuple(command))
                command = []
            elif command or not re.match(r"[A-Z_]+=", word):
                command.append(word)


@cache
def commands() -> list[Command]:
    """Every command in shell blocks and in inline code of every page."""
    found = []
    for page in pages():
        for block in blocks(page):
            if block.language.split()[:1] and block.language.split()[0] in SHELLS:
                found += split(block.code, block.place)
        for code in inline_code(page):
            if re.match(r"(himar[\w-]*|make|pytest|python|torchrun|pip|\S+/himar-\w+) ", code):
                found += split(code, page)
    return found


def of(name: str) -> list[Command]:
    """The commands that run one of our programs, from its name on; what runs it is taken away."""
    found = []
    for command in commands():
        for place, word in enumerate(command.words):
            if word.rpartition("/")[2] == name and (place == 0 or command.words[place - 1] in WRAPPERS):
                found.append(Command(command.place, (word, *command.words[place + 1 :])))
                break
    return found


def is_cpp(command: Command) -> bool:
    return command.words[0].startswith("build/") or command.words[0].endswith("himar-generate")


@cache
def options_of(name: str) -> dict[str, set[str]]:
    """The options that each verb of a Python program takes; of a program without verbs those of ""."""

    def names(command: click.Command) -> set[str]:
        return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}

    command = program(name)
    if not isinstance(command, click.Group):
        return {"": names(command)}
    context = click.Context(command)
    found = {verb: command.get_command(context, verb) for verb in command.list_commands(context)}
    return {verb: names(verb_command) for verb, verb_command in found.items() if verb_command is not None}


@cache
def module_file(module: str) -> Path | None:
    """The file of `python -m MODULE` here, or None."""
    for room in ("", "kernels", "himar", "runtime", "export"):
        path = ROOT / room / module.replace(".", "/")
        for file in (path.with_suffix(".py"), path / "__main__.py"):
            if file.is_file():
                return file
    return None


@cache
def options_in(file: Path) -> frozenset[str]:
    """The options that a program's text names, or that of the modules beside it which it imports."""
    seen: set[Path] = set()
    found: set[str] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"[\"'/](--?[a-z][\w-]*)", text))
        for module, names in re.findall(r"^\s*from ([\w.]+) import \(?([^)\n]+)", text, re.MULTILINE):
            for one in (module, *(f"{module}.{name.split(' as ')[0].strip()}" for name in names.split(","))):
                imported = module_file(one)
                if imported is not None and "benchmarks" in imported.parts:
                    waiting.append(imported)
    return frozenset(found)


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@cache
def cmake_presets() -> set[str]:
    presets = json.loads((ROOT / "runtime/cpp/CMakePresets.json").read_text())
    return {preset["name"] for preset in presets["configurePresets"]}
