"""Finds the sets of weights in what a checkpoint holds, whatever its entries and prefixes are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from himar_kernels import CheckpointError

from .torch_files import Array, Record

State = dict[str, torch.Tensor]

PREFERRED = "model_ema"
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
"""What torch.compile, FSDP, activation checkpointing, Fabric and DDP put into names, at any place, also stacked."""
_FLATTENED = ("_flat_param", "flat_param")
_NO_WEIGHTS = re.compile(r"(opt|optim|optimi[sz]ers?|sched|schedulers?|lr|grad|rng|random|args|hyper)(_|\b|\d)", re.I)
_BOOKKEEPING = ("n_averaged", "num_updates", "decay")
_DEEPEST = 4


@dataclass(frozen=True)
class WeightSet:
    """One set of weights.

    label: how a user names it, for example "ema.shadow"; "" where a file holds nothing else. problem: why it cannot be
    used, which matters only where it is chosen.
    """

    label: str
    state: State
    problem: str = ""

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an exponential moving average."""
        words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", self.label).lower())
        return bool({"ema", "averaged", "shadow"} & set(words))


@dataclass(frozen=True)
class Network:
    """What is looked for: its name, the parameters of which it has one at least, and how a user chooses among sets."""

    name: str
    anchors: Collection[str] = ()
    option: str = "--weights NAME"


ANY = Network("network")


def choose(content: Any, path: Path, weights: str | None, network: Network) -> tuple[WeightSet, str]:
    """Return the set of weights to use, and what is to be told about the choice: "" where there was none.

    content: what a file holds. weights: the label that a user gave, or a part of it; None takes `model_ema`, else the
    one set that is called an average, else the only one. network: without anchors any network's sets are taken.
    Raises CheckpointError, listing the sets, when there is none, none of that name, or several to choose from.
    """
    chosen, notice = _choose(list(find_sets(content)), content, path, weights, network)
    if chosen.problem:
        raise CheckpointError(f"{path} {chosen.problem}")
    return chosen, notice


def _choose(
    every: list[WeightSet], content: Any, path: Path, weights: str | None, network: Network
) -> tuple[WeightSet, str]:
    if not network.anchors:  # Named numbers are not a network; any matrix makes one.
        every = [each for each in every if any(value.ndim > 1 for value in each.state.values())] or every
    fitting = [part for each in every for part in _below(each, network.anchors)] if network.anchors else every
    # A file of another network's is told by the one that asks for it, by the name that it misses.
    found = fitting or every
    if not found:
        raise CheckpointError(f"{path} holds no state dict, that is, no names with tensors{_lists(content)}.")
    if weights is not None:
        return _named(found, path, weights), ""
    if not fitting and len(found) > 1:
        raise CheckpointError(
            f"{path} is not a {network.name} checkpoint: none of its entries holds one ({_labels(found)})."
        )
    if len(found) == 1:
        return found[0], ""
    chosen = [each for each in found if PREFERRED in each.label.split(".")]
    chosen = chosen[:1] if len(chosen) == 1 else [each for each in found if each.averaged]
    if len(chosen) != 1:
        raise CheckpointError(
            f"{path} holds {len(found)} sets of weights, {_labels(found)}; choose one with {network.option}."
        )
    others = [each for each in found if each is not chosen[0]]
    notice = f"{path}: took the weights {chosen[0].label or 'without a prefix'}, not {_labels(others, 'or')}"
    return chosen[0], f"{notice} ({network.option} chooses)"


def find_sets(content: Any, label: str = "", depth: int = 0) -> Iterator[WeightSet]:
    """Yield every mapping of names to tensors in a file's content, wrappers taken off the names."""
    if isinstance(content, Record):
        content = _module_state(content) or content.state
    if not isinstance(content, Mapping) or depth > _DEEPEST or "param_groups" in content:
        return
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor | Array)}
    named = all(isinstance(name, str) for name in content)
    if state and named and (any("." in name for name in state) or len(state) == len(content)):
        yield WeightSet(label, *_unwrapped(state))
    for name, value in content.items():
        if isinstance(name, str) and not isinstance(value, torch.Tensor) and not _NO_WEIGHTS.match(name):
            yield from find_sets(value, f"{label}.{name}" if label else name, depth + 1)


def _unwrapped(state: Mapping[str, Any]) -> tuple[State, str]:
    """Take wrappers' parts out of the names, "module._orig_mod.a.b" → "a.b"; return what is wrong with them too."""
    plain: State = {}
    before: dict[str, str] = {}
    problem = ""
    for name, value in state.items():
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        short = ".".join(parts) or name
        if parts and parts[-1] in _FLATTENED:
            problem = f"holds {name}, parameters that FSDP flattened; save them with StateDictType.FULL_STATE_DICT."
        elif short in before:
            problem = f"holds both {before[short]} and {name}; keep one of them."
        before.setdefault(short, name)
        try:
            plain.setdefault(short, value.tensor() if isinstance(value, Array) else value)
        except ValueError as error:
            problem = f"holds {error} at {name}, where a weight should be; save a state_dict()."
    return plain, problem


def _below(whole: WeightSet, anchors: Collection[str]) -> list[WeightSet]:
    """Split a set by the prefixes under which a network's anchors stand: "model.", "first_stage_model.", none."""
    prefixes = {
        name[: -len(anchor)]
        for name in whole.state
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    sets = []
    for prefix in sorted(prefixes):
        others = [other for other in prefixes if other != prefix and other.startswith(prefix)]
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in whole.state.items()
            if name.startswith(prefix) and not any(map(name.startswith, others))
        }
        state = {name: tensor for name, tensor in state.items() if name not in _BOOKKEEPING}
        sets.append(WeightSet(".".join(filter(None, (whole.label, prefix.rstrip(".")))), state, whole.problem))
    return sets


def _named(found: Sequence[WeightSet], path: Path, weights: str) -> WeightSet:
    if [each.label for each in found] == [""]:
        raise CheckpointError(
            f"{path} holds one set of weights, so {weights!r} cannot be chosen from it; leave it out."
        )
    exact = [each for each in found if each.label == weights]
    part = [each for each in found if f".{weights}." in f".{each.label}."]
    chosen = exact or part
    if len(chosen) != 1:
        has = f"{len(chosen)} entries under {weights!r}" if chosen else f"no entry {weights!r} with weights"
        raise CheckpointError(f"{path} has {has}; choose with --weights NAME from {_labels(chosen or found)}.")
    return chosen[0]


def _labels(found: Sequence[WeightSet], last: str = "and") -> str:
    names = [each.label or "(the file itself)" for each in found]
    if len(names) > 8:
        return f"{', '.join(names[:8])} {last} {len(names) - 8} more"
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _lists(content: Any) -> str:
    """Say where averages stand as a list without names, as some libraries write them."""
    if not isinstance(content, Mapping):
        return ""
    for name, value in [("", content), *((str(key), each) for key, each in content.items())]:
        for inner, each in value.items() if isinstance(value, Mapping) else ():
            if isinstance(each, list) and each and all(isinstance(item, torch.Tensor) for item in each):
                place = f"{name}.{inner}" if name else inner
                return f"; {place} is a list of tensors without names: write the averaged model's state_dict()"
    present = ", ".join(sorted(str(key)[:40] for key in content)[:8])
    return f"; it holds {present}" if present else ""


def _module_state(record: Record) -> State | None:
    """Return the state dict of a whole network that was pickled, from its parts."""
    parts = record.state
    if not isinstance(parts, Mapping) or "_parameters" not in parts or "_modules" not in parts:
        return None
    state: State = {}
    transient = parts.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        tensors = parts.get(kind)
        if isinstance(tensors, Mapping):
            state |= {
                name: value
                for name, value in tensors.items()
                if isinstance(value, torch.Tensor) and not (kind == "_buffers" and name in transient)
            }
    modules = parts["_modules"]
    for name, module in modules.items() if isinstance(modules, Mapping) else ():
        inner = _module_state(module) if isinstance(module, Record) else None
        state |= {f"{name}.{key}": value for key, value in (inner or {}).items()}
    return state
