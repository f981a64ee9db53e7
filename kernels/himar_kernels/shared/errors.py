"""Defines himar's typed errors. Each is for the user to read: one sentence, the value, what to do."""

from __future__ import annotations


class HimarError(Exception):
    """Base of every error that himar raises on purpose. The text is one or two plain sentences."""


class InputError(HimarError, ValueError):
    """An argument of a request is out of range: label, steps, guidance, seed, temperature, shapes."""


class ConfigError(HimarError, ValueError):
    """A model configuration is incomplete, contradicts itself or contradicts a checkpoint's shapes."""


class CheckpointError(HimarError):
    """A checkpoint is missing, damaged, unsafe to load, or of another model."""


class BundleError(HimarError):
    """A bundle is missing, damaged, from a newer schema, or its files do not match its manifest."""


class BuildError(HimarError):
    """A build cannot start or finish: the output exists, the disk is full, a precision is impossible."""


class EngineError(HimarError):
    """An engine cannot be loaded or run on this machine, or produced values that are not finite."""


class VerificationError(HimarError):
    """What was built does not give the model's numbers."""


def not_finite(component: str, where: str = "") -> EngineError:
    """Return the error for an engine whose outputs are not finite; `where` is a phase and step, led by a space."""
    return EngineError(
        f"{component} returned values that are not finite{where}; if the bundle is in half precision, build "
        f"{component} with fp32 or bf16."
    )
