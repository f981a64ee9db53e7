"""What surrounds the code agrees with it: spelling, versions, the workflow, issue forms, pre-commit's hooks."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.docs.markdown import ROOT
from tests.docs.shell import options_of
from tests.run_on_packages import PYTHONS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_nothing_is_misspelt():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    done = subprocess.run([sys.executable, "-m", "codespell_lib", *listed], cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if "==>" in line]
    assert not found and done.returncode == 0, "\n".join(found) + done.stderr[-500:]


def test_one_version_is_said_everywhere():
    """CMake reads pyproject.toml too: tests/runtime/cpp/test_programs.py asks what it built."""
    version, citation = PROJECT["project"]["version"], yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f'of this library, for example "{version}"' in (ROOT / "runtime/cpp/include/himar/himar.h").read_text()
    newest = re.search(r"^## (\S+), (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.groups() in ((version, citation["date-released"]), (_next(version), "not released yet"))


def _next(version: str) -> str:
    major, minor, _ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


def test_classifiers_name_the_pythons_that_it_requires():
    named = [each.rsplit(" ", 1)[1] for each in PROJECT["project"]["classifiers"] if ":: Python :: 3." in each]
    assert PROJECT["project"]["requires-python"] == f">={named[0]},<3.{int(named[-1].split('.')[1]) + 1}"
    assert [f"python{each}" for each in named] == list(PYTHONS)


def test_the_citation_says_what_the_packages_say():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert [each["name"] for each in citation["authors"]] == [each["name"] for each in PROJECT["project"]["authors"]]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_workflow_runs_what_continuous_integration_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda form: form.stem
)
def test_issue_forms_ask_for_commands_that_exist(form):
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    text = form.read_text()
    asked = re.findall(r"himar-export (\w+) BUNDLE((?: --?\w+(?: [A-Z]+)?)*)", text)
    assert asked
    for verb, options in asked:
        assert set(re.findall(r"--\w+", options)) <= options_of("himar-export")[verb]


def test_hooks_have_the_pinned_versions():
    pinned = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {need for hook in hooks for need in hook["additional_dependencies"]} <= pinned
