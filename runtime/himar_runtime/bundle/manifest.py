"""The bundle's manifest, schemas 1 to 5: what `manifest.json` says, read and checked without loading an engine.

    schema_version  the first one that has all that the bundle uses: "1.0" to "1.3", "2.0", "2.1", "3.0", "4.0",
                    "4.1" or "5.0". Unknown keys are kept (`Manifest.raw`) and ignored within a major version.
    himar_version   version of the toolkit that built the bundle
    model           family: of the model (himar_kernels.families.registry), absent in bundles of hi_mar; since 3.0 there
                    are others, which older readers have to refuse. The rest is the family's; of hi_mar it is
                    ModelInfo: sizes of the network; keys of other sizes are kept. Since 1.1 also its phases: pivots
                    ("none", "visual", "condition"), low_head, high_head ("mlp", "dit"); absent keys mean the released
                    models' "condition", "mlp", "dit". With pivots "none" cond_scale is 0. Since 4.0 also its context,
                    "class" where absent: with "text" images are made from contexts (K, W), K of `buffer`, W of
                    context_width; classes is 0, and empty_context {file, sha256} the context of the empty prompt,
                    K·W raw float32, little-endian. Readers before 4.0 would look for classes. class_names, where the
                    model knows them: a list of as many strings as there are classes, "" for one without a name
    sampling        {name: SamplingConfig}, the first is the default
    solver_sampling since 1.2, absent where empty: further named settings, in which a phase has another solver than
                    "ddpm". Readers before 1.2 know no solvers and would take 8 steps of one for 8 of "ddpm"; so they
                    do not see these. Since 2.0 `sampling` may have solvers: where the default has one, every reader of
                    major version 1 has to refuse the bundle, and it is 2.0
    forecast_sampling
                    since 1.3, 2.1 and 4.1, absent where empty: further named settings that leave evaluations of a head
                    out, or have lists of a value for each autoregressive step (SamplingConfig.needs_evaluations).
                    Earlier readers would run all evaluations in their place. Since 5.0 `sampling` may have such ones:
                    where the default is one, every earlier reader has to refuse the bundle
    max_batch       images per run that the engines were built for
    tokenizer       of a bundle with a text_encoder: {vocabulary, merges: paths, sha256: {vocabulary, merges}, length:
                    K, start, end, padding: ids, repairs_text: whether it is open_clip's, which repairs texts}
    components      one transformer and one head for each phase, named by `ModelInfo.phases`, and vae_decoder or not;
                    vae_encoder, which edits need, from image float32 (images, 3, H, W) to latent; of hi_mar on request,
                    with transformer_high_edit where pivots are "condition" (docs/editing.md). Readers without edits
                    leave both alone;
                    text_encoder, from tokens int64 (prompts, K) to context float32 (prompts, K, W), where prompts can
                    be given, else contexts alone.
                    {name: {file, precision, inputs, outputs, profile, engine: {backend, file}, parts}}
                    precision: "fp32", "fp16", "bf16", "int8" (integer matmuls, for ONNX Runtime on a CPU), "fp8"
                    (e4m3 in some matmuls, for a GPU);
                    inputs, outputs: [{name, dtype, shape}], a string in a shape names a dynamic axis;
                    profile: {axis: [min, opt, max]}; file: the ONNX model; engine.file: what runs;
                    parts: [{name, bytes, shared_bytes}], where the weights' bytes go; the heads' entries also have
                    condition_embedding, where the layer that embeds z for them is in the weights file; a
                    TensorRT engine's also precision (operations by kind and precision, islands, the source of this
                    proof), inspected (the same from the engine itself, where a GPU could open it), build_seconds
    backend         {name, version, compute_capability}: what built the engines, and for which GPU (or null);
                    of TensorRT engines also compute_capabilities, least_compute_capability, version_compatible (see
                    BackendInfo), refittable, gpu, optimization_level, workspace
    files           {path: {sha256, bytes}} of every file but the manifest
    selftest        path of the recorded self test
    provenance      source checkpoint's sha256, versions, command line
    verification    [{name, relative_l2, limit, passed}] of the self test at the build
    verification_ran  what replayed it then, in words: engines that could not run where they were built are named

A reader of 1.0 knows the released phases alone. It refuses a bundle of other phases, whose heads have other names:
it lacks mlp_head or dit_head.

All paths are relative to the bundle, with "/" between their parts, and can't lead out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from himar_kernels import BundleError
from himar_kernels.families.registry import FAMILIES, HI_MAR, TEXT_ENCODER
from himar_runtime.bundle.schema import BackendInfo, ComponentSpec, FileEntry, TensorSpec, TokenizerInfo
from himar_runtime.families.family import runtime_family

__all__ = [
    "DTYPES",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "BackendInfo",
    "ComponentSpec",
    "FileEntry",
    "Manifest",
    "TensorSpec",
    "TokenizerInfo",
    "inside",
    "parse_manifest",
]

SCHEMA_VERSION = "5.0"
MANIFEST_NAME = "manifest.json"
DTYPES = ("float32", "float16", "int64")
LARGEST = 2**63 - 1
"""Of a whole number: the C++ runtime reads no larger one either."""

_MOST_BATCH = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; see the module's text.

    family: of the model, a name of himar_kernels.families.registry; model: its sizes, of the family's own class (see
    himar_runtime.families.family.ModelSizes); sampling: settings of the family's own class, the first is the default;
    raw: the JSON as it stands, unknown keys included; class_names: of the class numbers, None where they are not known;
    tokenizer: of a bundle that takes prompts.
    """

    schema_version: str
    himar_version: str
    family: str
    model: Any
    sampling: Mapping[str, Any]
    max_batch: int
    components: Mapping[str, ComponentSpec]
    backend: BackendInfo
    files: Mapping[str, FileEntry]
    selftest: str
    provenance: Mapping[str, Any]
    raw: Mapping[str, Any]
    class_names: tuple[str, ...] | None = None
    tokenizer: TokenizerInfo | None = None


def parse_manifest(text: str | bytes, source: str) -> Manifest:
    """Read and check a manifest; every BundleError names `source` and the key that is wrong."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source} is not valid JSON ({error}); build the bundle again.") from error
    top = Reader(raw, source, "")
    _check_schema(top.get("schema_version", str), source)
    name = top.reader("model").choice("family", tuple(FAMILIES), HI_MAR)
    family = runtime_family(name)
    manifest = Manifest(
        schema_version=top.get("schema_version", str),
        himar_version=top.get("himar_version", str),
        family=name,
        model=family.read_model(top.reader("model")),
        sampling=family.read_sampling(top),
        max_batch=top.positive("max_batch", _MOST_BATCH),
        components={name: _component(name, entry) for name, entry in top.reader("components").readers()},
        backend=_backend(top.reader("backend")),
        files={
            inside(path, source): FileEntry(entry.get("sha256", str), entry.get("bytes", int))
            for path, entry in top.reader("files").readers()
        },
        selftest=inside(top.get("selftest", str), source),
        provenance=_provenance(top.reader("provenance")),
        raw=top.values,
        class_names=_class_names(top.reader("model")),
        tokenizer=_tokenizer(top.reader("tokenizer")) if "tokenizer" in top.values else None,
    )
    _check_tokenizer(manifest, source)
    for path in _referenced(manifest):
        if path not in manifest.files:
            raise BundleError(f"{source} names {path}, but gives no hash for it; build the bundle again.")
    return manifest


def _provenance(reader: Reader) -> dict[str, Any]:
    """Return where a bundle comes from; what it says of its sources is what readers take it for."""
    for name in ("checkpoint", "vae"):
        if name in reader.values:
            for key in ("file", "sha256"):
                reader.reader(name).get(key, str)
    return reader.values


def inside(path: str, source: str) -> str:
    """Return `path` if it is relative, plain and stays inside the bundle; else BundleError."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or "\\" in path
        or "\0" in path
        or re.match("[A-Za-z]:", path)
    ):
        raise BundleError(f"{source} names the path {path!r}, which leads out of the bundle; refusing to load it.")
    return path


def _check_schema(version: str, source: str) -> None:
    major = version.partition(".")[0]
    if not re.fullmatch(r"\d+\.\d+", version) or major == "0":
        raise BundleError(f"{source}: schema_version is {version!r}; it must be like '1.0'.")
    readable = SCHEMA_VERSION.partition(".")[0]
    if int(major) > int(readable):
        raise BundleError(
            f"{source} has schema version {version}, but this himar reads versions up to {readable}.x; "
            f"install a newer himar or build the bundle again with this one."
        )


def _class_names(reader: Reader) -> tuple[str, ...] | None:
    if reader.values.get("class_names") is None:
        return None
    names, classes = reader.get("class_names", list), reader.get("classes", int)
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise BundleError(
            f"{reader.source}: model.class_names must be a list of {classes} strings, one per class; build the bundle "
            f"again."
        )
    return tuple(names)


def _tokenizer(reader: Reader) -> TokenizerInfo:
    vocabulary, merges = (inside(reader.get(name, str), reader.source) for name in ("vocabulary", "merges"))
    start, end, padding = (reader.get(name, int) for name in ("start", "end", "padding"))
    return TokenizerInfo(vocabulary, merges, reader.positive("length"), start, end, padding)


def _check_tokenizer(manifest: Manifest, source: str) -> None:
    """Raise BundleError unless a bundle with a text encoder has a tokenizer, and that one the model's length."""
    tokenizer, shape = manifest.tokenizer, manifest.model.context_shape
    if tokenizer is None and shape is not None and TEXT_ENCODER in manifest.components:
        raise BundleError(f"{source} has a {TEXT_ENCODER}, but lacks tokenizer; build the bundle again.")
    if tokenizer is None:
        return
    if shape is None or tokenizer.length != shape[0]:
        takes = "no texts" if shape is None else f"contexts of {shape[0]} rows"
        raise BundleError(
            f"{source}: tokenizer.length is {tokenizer.length}, but the model takes {takes}; build the bundle again."
        )
    hashes = Reader(manifest.raw["tokenizer"], source, "tokenizer").reader("sha256")
    for name, file in (("vocabulary", tokenizer.vocabulary), ("merges", tokenizer.merges)):
        if file in manifest.files and hashes.get(name, str) != manifest.files[file].sha256:
            raise BundleError(
                f"{source}: tokenizer.sha256.{name} is not the sha256 of {file}; copy the bundle again or rebuild it."
            )


def _component(name: str, reader: Reader) -> ComponentSpec:
    engine = reader.reader("engine")
    profile = reader.reader("profile")
    parts = reader.items("parts") if "parts" in reader.values else None
    return ComponentSpec(
        name=name,
        file=inside(reader.get("file", str), reader.source),
        precision=reader.get("precision", str),
        inputs=tuple(_tensor(entry) for entry in reader.items("inputs")),
        outputs=tuple(_tensor(entry) for entry in reader.items("outputs")),
        profile={axis: _range(profile, axis) for axis in profile.values},
        backend=engine.get("backend", str),
        engine_file=inside(engine.get("file", str), reader.source),
        weight_bytes=None if parts is None else sum(part.get("bytes", int) for part in parts),
    )


def _tensor(reader: Reader) -> TensorSpec:
    dtype = reader.get("dtype", str)
    if dtype not in DTYPES:
        raise BundleError(f"{reader.source}: {reader.path}.dtype is {dtype!r}; known are {', '.join(DTYPES)}.")
    shape = reader.get("shape", list)
    if not all(isinstance(size, str) or (type(size) is int and size > 0) for size in shape):
        raise BundleError(f"{reader.source}: {reader.path}.shape is {shape}; it must hold sizes and axis names.")
    return TensorSpec(reader.get("name", str), dtype, tuple(shape))


def _range(profile: Reader, axis: str) -> tuple[int, int, int]:
    values = profile.get(axis, list)
    if len(values) != 3 or not all(type(value) is int for value in values) or values != sorted(values):
        raise BundleError(f"{profile.source}: {profile.path}.{axis} is {values}; it must be [min, opt, max].")
    return values[0], values[1], values[2]


def _backend(reader: Reader) -> BackendInfo:
    capability, least = (
        None if reader.values.get(key) is None else reader.get(key, str)
        for key in ("compute_capability", "least_compute_capability")
    )
    several = None if reader.values.get("compute_capabilities") is None else reader.get("compute_capabilities", list)
    for each in (capability, least, *(several or ())):
        if each is not None and not (isinstance(each, str) and re.fullmatch(r"\d+\.\d+", each)):
            raise BundleError(f"{reader.source}: backend names the compute capability {each!r}; it must be like '9.0'.")
    return BackendInfo(
        reader.get("name", str),
        reader.get("version", str),
        capability,
        None if several is None else tuple(several),
        least,
        reader.values.get("version_compatible") is True,
    )


def _referenced(manifest: Manifest) -> list[str]:
    paths = [manifest.selftest]
    for component in manifest.components.values():
        paths += [component.file, component.engine_file]
    if manifest.tokenizer is not None:
        paths += [manifest.tokenizer.vocabulary, manifest.tokenizer.merges]
    return paths


def shortened(value: object) -> str:
    """Return a value for a sentence, at most 200 characters of it."""
    text = json.dumps(value, separators=(",", ":"))
    return text if len(text) <= 200 else f"{text[:200]}…"


_T = TypeVar("_T")


class Reader:
    """A JSON object whose values are taken by key and type; errors say where in which file."""

    def __init__(self, values: object, source: str, path: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{source}: {path or 'the manifest'} must be a JSON object; build the bundle again.")
        self.values: dict[str, Any] = values
        self.source = source
        self.path = path

    def get(self, key: str, kind: type[_T]) -> _T:
        """Return a value of the wanted JSON type; an int is accepted as a float."""
        if key not in self.values:
            raise BundleError(f"{self.source} lacks {self._at(key)}; build the bundle again.")
        value = self.values[key]
        if type(value) is int and not -LARGEST - 1 <= value <= LARGEST:
            raise BundleError(f"{self.source}: {self._at(key)} is {shortened(value)}; it must be at most 2^63-1.")
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(f"{self.source}: {self._at(key)} is {value!r}; it must be of type {kind.__name__}.")
        return value

    def positive(self, key: str, most: int = LARGEST) -> int:
        """Return a whole number from 1 to `most`."""
        value = self.get(key, int)
        if value < 1:
            raise BundleError(f"{self.source}: {self._at(key)} is {value}; it must be at least 1.")
        if value > most:
            raise BundleError(f"{self.source}: {self._at(key)} is {value}; it must be at most {most}.")
        return value

    def choice(self, key: str, known: tuple[str, ...], absent: str) -> Any:
        """Return a value that must be one of `known`, or `absent` where there is none."""
        value = self.values.get(key, absent)
        if value not in known:
            names = ", ".join(map(repr, known))
            raise BundleError(
                f"{self.source}: {self._at(key)} is {value!r}; this himar knows {names}: install a newer himar."
            )
        return value

    def reader(self, key: str) -> Reader:
        """Return the object at `key`."""
        return Reader(self.get(key, dict), self.source, self._at(key))

    def readers(self) -> list[tuple[str, Reader]]:
        """Return every value, each an object, with its key."""
        return [(key, self.reader(key)) for key in self.values]

    def items(self, key: str) -> list[Reader]:
        """Return the objects of the list at `key`."""
        items = self.get(key, list)
        return [Reader(item, self.source, f"{self._at(key)}[{i}]") for i, item in enumerate(items)]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
