"""Writes the reference of the Python packages: a page each, with every public name and its docstring."""

from __future__ import annotations

import inspect
from importlib import import_module

from .pages import WORDS_A_MINUTE

PAGES = {
    "runtime": (
        "himar_runtime: run a bundle",
        "What a service imports. It needs neither PyTorch nor the model's code.",
        ("himar_runtime",),
        ("himar_runtime.edit_files.read_image", "himar_runtime.edit_files.read_mask"),
    ),
    "settings": (
        "Sampling settings",
        "What a request may change, by family. Errors name the value that no model can take.",
        (),
        (
            "himar_kernels.families.hi_mar.sampling.SamplingConfig",
            "himar_kernels.families.hi_mar.sampling.SamplingChanges",
            "himar_kernels.families.hmar.sampling.SamplingConfig",
        ),
    ),
    "himar": (
        "himar: the reference model",
        "Networks, checkpoints and the eager sampler, in PyTorch.",
        ("himar",),
        ("himar.families.hi_mar.editing.edit", "himar.families.hmar.editing.edit", "himar.family.ModelFamily"),
    ),
    "kernels": (
        "himar_kernels: what lies between the networks",
        "NumPy alone: draws, schedules, index lists, diffusion steps, and the errors that all packages raise.",
        ("himar_kernels", "himar_kernels.families.hi_mar"),
        (),
    ),
    "export": (
        "himar_export: build, verify, measure",
        "What the verbs of `himar-export` call. The command is the interface that stays; these are its parts.",
        (),
        (
            "himar_export.make.build.BuildRequest",
            "himar_export.make.build.build",
            "himar_export.make.refit.RefitRequest",
            "himar_export.make.refit.refit",
            "himar_export.verify.verify.verify_selftest",
            "himar_export.verify.verify.verify_recording",
            "himar_export.bench.run.BenchRequest",
            "himar_export.bench.run.run_bench",
            "himar_export.plan.search.Wanted",
            "himar_export.plan.search.find_plan",
            "himar_export.families.family.ExportFamily",
        ),
    ),
}
"""A page's name: its title, a line, the packages whose `__all__` it lists, and further names."""


def names_page(page: str) -> str:
    """Return a page with a directive for each name, which mkdocstrings replaces by its docstring."""
    title, line, packages, further = PAGES[page]
    names = [f"{package}.{name}" for package in packages for name in import_module(package).__all__] + list(further)
    time = f"*{max(2, round(sum(map(_words, names)) / WORDS_A_MINUTE))} minutes to read from end to end*"
    return "\n\n".join([f"# {title}", f"{time}\n\n{line}", *(f"::: {name}" for name in names)]) + "\n"


def _words(name: str) -> int:
    """Return how many words the docstrings of a name and of its own members have."""
    package, _, last = name.rpartition(".")
    found = getattr(import_module(package), last)
    members = vars(found).values() if inspect.isclass(found) else ()
    documented = [found, *(member for member in members if callable(member) or isinstance(member, property))]
    return sum(len((inspect.getdoc(each) or "").split()) for each in documented)
