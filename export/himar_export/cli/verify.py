"""Defines `himar-export verify` and `record`: engines against recorded runs of the eager model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray
from rich.console import Console

from himar.cli.options import config_option, weights_option
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import (
    SEED,
    FamilyCommand,
    NamedPath,
    chosen_labels,
    device_option,
    given_prompts,
    label_option,
    npz_option,
    prompt_options,
    warn_truncated,
)
from himar_runtime import Bundle

from ..files import require_new, write_npz
from ..report import print_json, print_outcome
from .options import case_option
from .progress import progress_bar


@click.command(epilog="Example: himar-export verify bundle --recording run.npz --case guided")
@click.argument("bundle", type=NamedPath())
@click.option("--recording", type=NamedPath(), help="Recorded run to replay instead of the self-test.")
@click.option("--case", help="Case of the recording; all of them if not given.")
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def verify(bundle: Path, recording: Path | None, case: str | None, device: str, as_json: bool) -> int:
    """Replay the self-test of BUNDLE, or a recorded run, and compare: exit code 0 only if everything matches."""
    from ..verify.verify import verify_recording, verify_selftest, what_ran

    if recording is None and case is not None:
        raise click.UsageError("--case needs --recording.")
    opened = Bundle.open(bundle)
    ran = what_ran(opened.manifest.backend.name, device)
    if recording is None:
        comparisons = verify_selftest(opened, device)
    else:
        comparisons = verify_recording(opened, recording, case, device)
    print_outcome(comparisons, ran, bundle, str(recording or "its self-test"), as_json)
    return 0 if all(c.passed is not False for c in comparisons) else 1


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export record model.pth --config himar-b --labels 1,2 --seed 3 --out run.npz",
)
@click.argument("checkpoint", type=NamedPath())
@click.option("--config", callback=config_option, help="Preset or JSON file, as for build.")
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint, to record its decoder too; HMAR's tokenizer.")
@weights_option
@click.option(
    "--labels",
    callback=label_option,
    help="Classes: numbers, ranges and names, for example 1,10-19,cat.",
)
@click.option("--contexts", type=NamedPath(), help="Model from text: .npz with the texts' contexts (B, K, W).")
@prompt_options
@click.option("--text", type=NamedPath(file_okay=False), help="With prompts: folder of the text tower and tokenizer.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the recorded draws.")
@click.option("--case", default="run", show_default=True, callback=case_option, help="Name of the case.")
@sampling_options
@click.option("--out", required=True, type=NamedPath(), callback=npz_option, help="The .npz to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def record(as_json: bool, **options: Any) -> None:
    """Run the eager model of CHECKPOINT and write every draw and result, for `verify --recording`."""
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    from himar.device import use_threads

    use_threads()
    with progress_bar(as_json) as advance:
        arrays = _record_run(advance=advance, **options)
    if as_json:
        print_json({"out": str(options["out"]), "arrays": len(arrays)})
    else:
        Console().print(f"{len(arrays)} arrays → {options['out']}", highlight=False, markup=False)


def _record_run(
    checkpoint: Path,
    out: Path,
    labels: list[int | str] | None,
    *,
    contexts: Path | None,
    prompts: tuple[str, ...],
    prompts_file: list[str] | None,
    text: Path | None,
    config: str | None,
    vae: Path | None,
    weights: str | None,
    seed: int,
    case: str,
    sampling_name: str | None,
    guidance: float | None,
    advance: Callable[[str, float], None],
    **changes: Any,
) -> Mapping[str, NDArray[Any]]:
    """Run the eager model and write the recording; returns it. Raises what loading and sampling raise."""
    from himar.family import model_family, open_model

    from ..families.family import export_family
    from ..make.assemble import load_fitting_vae

    texts = given_prompts(prompts, prompts_file)
    if [labels is None, contexts is None, texts is None].count(False) != 1 or (texts is None) != (text is None):
        raise click.UsageError(
            "give one of --labels, --contexts, and --prompt or --prompts-file with --text, as the model takes them."
        )
    require_new(out)
    advance("reading the checkpoint", 0.0)
    model, _ = open_model(checkpoint, config, weights=weights)
    family = model_family(model.family)
    decoder = load_fitting_vae(vae, model)
    sampling = family.choose_sampling(model, sampling_name, guidance, changes, f"the model of {checkpoint}")
    shown = _shown(model, checkpoint, labels, contexts, texts, text)
    advance("running the eager model", 0.1)
    arrays = export_family(model.family).record(model, decoder, shown, seed=seed, sampling=sampling, case=case)
    write_npz(out, arrays)
    return arrays


def _shown(
    model: Any,
    checkpoint: Path,
    labels: list[int | str] | None,
    contexts: Path | None,
    prompts: list[str] | None,
    text: Path | None,
) -> list[int] | NDArray[Any]:
    """Return the labels, or the contexts (B, K, W), of a run; InputError where the model takes others."""
    from himar.data.contexts import read_contexts
    from himar.text import encode
    from himar_kernels import InputError, check_labels
    from himar_runtime.texts import check_contexts

    from ..make.text import load_fitting_text

    shape = getattr(model.config, "context_shape", None)
    if labels is not None and shape is None:
        numbers = chosen_labels(labels, model.class_names, str(checkpoint))
        return check_labels(numbers, model.config.classes).tolist()
    if labels is not None or shape is None:
        takes = "classes; give --labels" if shape is None else "texts; give --contexts, or --prompt with --text"
        raise InputError(f"the model of {checkpoint} makes images from {takes}.")
    if contexts is not None:
        values = read_contexts(contexts).numpy()
    else:
        side = load_fitting_text(text, model)
        assert side is not None and prompts is not None
        tokens, truncated = side.tokenizer.ids(prompts)
        warn_truncated(truncated, side.tokenizer.length)
        values = encode(side.tower, tokens).cpu().numpy()
    checked = check_contexts(values, shape).contexts
    assert checked is not None
    return checked
