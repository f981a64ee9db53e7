"""HMAR's cost model against PyTorch's counter and the figures of the specification."""

import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from himar.families.hmar.attention import Cache
from himar.families.hmar.config import ModelConfig, read_config, resolve
from himar.families.hmar.model import HMAR, randomise
from himar.families.hmar.presets import BENCHMARK
from himar.families.hmar.sampler import sample_codes
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import tokenizer_of
from himar.families.hmar.transformer import BLOCK_VECTORS, HEAD_VECTORS
from himar_export.cli import main
from himar_export.cost.cost import Held, Peaks
from himar_export.cost.decoder import DecoderSizes, vae_decoder
from himar_export.cost.run import request_costs, total_cost
from himar_export.families.hmar.components import components
from himar_export.families.hmar.cost import networks
from himar_export.families.hmar.cost.family import FAMILY
from himar_export.families.hmar.cost.request import PYRAMID, HmarRequest
from himar_export.families.hmar.cost.training import training_cost
from himar_kernels import InputError
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig

TINY = {
    "patch_nums": [1, 2, 3, 5], "width": 64, "depth": 3, "heads": 2, "tail": 2, "classes": 4, "vocab": 48,
    "latent_channels": 8, "vae_ch": 32, "vae_groups": 4, "vae_stride": 4,
}  # fmt: skip
MASKED = ((1,), (1, 3), (1, 1, 2, 5))
SETTINGS = {
    "masked": SamplingConfig(top_k=20, schedule=MASKED),
    "masked, one half": SamplingConfig(top_k=20, schedule=MASKED, mask_guidance=0),
    "unguided": SamplingConfig(guidance=0, top_k=20, schedule=MASKED),
    "var": SamplingConfig(top_k=20, all_scales=True),
    "smooth": SamplingConfig(top_k=20, smooth=True),
}


@cache
def tiny(**changes) -> ModelConfig:
    return resolve(read_config({**TINY, **changes}), {})


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def costs(config: ModelConfig, sampling: SamplingConfig | None = None, batch: int = 1, **more):
    request = HmarRequest(config, sampling or config.default_sampling, batch, **more)
    return {cost.component: cost for cost in request_costs(request, Peaks())}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_generation_costs_what_pytorch_counts_in_the_eager_sampler(name):
    config = tiny()
    model, tokenizer = randomise(HMAR(config), 0).requires_grad_(False), Tokenizer(tokenizer_of(config))
    torch.nn.init.normal_(tokenizer.requires_grad_(False).quantize.embedding.weight)
    found = costs(config, SETTINGS[name], 2, decoder=FAMILY.usual_decoder(config))

    def run() -> None:
        sampled = sample_codes(model, tokenizer, [0, 1], draws=PhiloxDraws(0), sampling=SETTINGS[name])
        tokenizer.decode(sampled.f_hat)

    assert total_cost(tuple(found.values())).eager_flops == pytest.approx(counted(run), rel=1e-3)


def test_d16_costs_what_pytorch_counts_in_its_modules():
    """On the meta device: forwards of both networks, and two of VAR's mode, whose second sees the first one's cells."""
    config, rows = resolve(read_config("hmar-d16"), {}), 2
    with torch.device("meta"):
        model = HMAR(config).requires_grad_(False)
        decoder = Tokenizer(tokenizer_of(config)).requires_grad_(False)
        class_row = torch.zeros(rows, dtype=torch.long)
        latent = torch.zeros(1, config.latent_channels, 16, 16)
    conditions, kept = model.conditions(class_row), Cache(config.depth).attends()
    assert networks.conditions(config, rows).flops == pytest.approx(
        counted(lambda: model.conditions(class_row)), rel=1e-3
    )
    expected = found = 0
    for network, scale, var in (
        ("next-scale", 9, False),
        ("masked", 2, False),
        ("next-scale", 0, True),
        ("next-scale", 1, True),
    ):
        cells, past = config.scales.cells[scale], config.scales.starts[scale] if var else 0
        attends = kept if var else None
        x = torch.zeros(rows, cells, config.width, device="meta")
        found += counted(lambda x=x, n=network, a=attends: model.run(x, conditions, n, a))
        work = networks.trunk(config, rows, cells, past=past) + networks.tail(config, rows, cells, past=past)
        expected += work.flops - networks.embedding(config, rows, cells).flops
    assert expected == pytest.approx(found, rel=1e-3)
    sizes = FAMILY.usual_decoder(config)
    shapes = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    assert DecoderSizes.from_shapes(shapes, "tokenizer") == sizes
    assert vae_decoder(sizes, 1, 16).flops == pytest.approx(counted(lambda: decoder.decode(latent)), rel=1e-3)


def test_engines_cost_what_pytorch_counts_in_their_graphs():
    config, rows = tiny(), 2
    model, tokenizer = randomise(HMAR(config), 0).requires_grad_(False), Tokenizer(tokenizer_of(config))
    found, shapes = {}, {}
    for part in components(model, tokenizer.requires_grad_(False), 2, "tensorrt"):
        graph, inputs = part.graph(torch.float32), part.sample_inputs(rows)
        found[part.name], shapes[part.name] = counted(lambda g=graph, i=inputs: g(**i)), inputs
    cells, past = shapes["trunk"]["cells"].numel(), shapes["var_trunk"]["keys"].shape[2]
    expected = {
        "conditions": networks.conditions(config, rows),
        "trunk": networks.trunk(config, rows, cells),
        "next_scale_tail": networks.tail(config, rows, cells),
        "masked_tail": networks.tail(config, rows, cells),
        "var_trunk": networks.trunk(config, rows, cells, past=past),
        "var_tail": networks.tail(config, rows, cells, past=past),
        "vae_decoder": vae_decoder(FAMILY.usual_decoder(config), rows, 5),
    }
    assert {name: work.flops for name, work in expected.items()} == pytest.approx(
        {name: found[name] for name in expected}, rel=1e-3
    )


@pytest.mark.parametrize(
    ("depth", "next_scale", "masked", "benchmark", "every", "once", "released", "lean"),
    [
        (16, 573.6, 25.5, 18.1, 5.8, 0.6, 0.605, 0.587),
        (20, 1106.5, 49.5, 35.1, 11.2, 1.1, 1.167, 1.132),
        (24, 1898.0, 85.1, 60.4, 19.3, 1.8, 2.002, 1.942),
        (30, 3682.2, 165.7, 117.6, 37.6, 3.4, 3.885, 3.768),
    ],
)
def test_the_specifications_table(depth, next_scale, masked, benchmark, every, once, released, lean):
    """GFLOP by network, then TFLOP of the whole transformer: as released, and without what it need not do."""
    config = resolve(read_config(f"hmar-d{depth}"), {})
    usual = config.default_sampling

    def transformer(sampling: SamplingConfig, way: str) -> dict[str, float]:
        found = {name: cost for name, cost in costs(config, sampling).items() if name != PYRAMID}
        return {n: (c.work.flops if way == "engine" else c.released_flops) / 1e9 for n, c in found.items()}

    whole = transformer(usual, "released")
    alone = transformer(usual.with_changes(schedule=()), "released")
    assert alone["trunk"] + alone["next_scale_tail"] == pytest.approx(next_scale, rel=1e-3)
    assert sum(whole.values()) - alone["trunk"] - alone["next_scale_tail"] - whole["conditions"] == pytest.approx(
        masked, rel=5e-3
    )
    fewer = transformer(usual.with_changes(schedule=BENCHMARK[256]), "released")
    assert fewer["trunk"] - alone["trunk"] + fewer["masked_tail"] == pytest.approx(benchmark, rel=5e-3)
    assert whole["conditions"] == pytest.approx(every, abs=0.06)
    assert sum(whole.values()) / 1e3 == pytest.approx(released, abs=6e-4)
    least = transformer(usual.with_changes(mask_guidance=0), "engine")
    assert least["conditions"] == pytest.approx(once, abs=0.06)
    assert sum(least.values()) / 1e3 == pytest.approx(lean, rel=1.5e-3)  # half of the rows at scale 0
    decode = vae_decoder(FAMILY.usual_decoder(config), 1, 16).flops / 1e12
    assert decode == pytest.approx(0.394, abs=6e-4)
    assert sum(least.values()) / 1e3 + decode == pytest.approx(lean + 0.394, rel=1.5e-3)


@pytest.mark.parametrize(("depth", "figure"), [(16, 2.09), (20, 3.97), (24, 6.74), (30, 12.96)])
def test_512_pixels_as_released(depth, figure):
    found = costs(resolve(read_config(f"hmar-d{depth}-512"), {}))
    total = sum(cost.released_flops for name, cost in found.items() if name != PYRAMID)
    assert total / 1e12 == pytest.approx(figure, abs=6e-3)


def test_var_does_nearly_the_same_operations_and_keeps_keys_and_values():
    config = resolve(read_config("hmar-d16"), {})
    plain, var = (
        HmarRequest(config, config.default_sampling.with_changes(schedule=(), all_scales=each))
        for each in (False, True)
    )
    less, more = (total_cost(request_costs(each, Peaks())).work.flops for each in (plain, var))
    assert 1 < more / less < 1.1
    assert plain.notes == () and "178.26 MB per image" in var.notes[0]  # twice what fp16 takes


def test_weights_are_read_once_a_call_in_their_precision():
    config = resolve(read_config("hmar-d16"), {})
    whole, half = networks.tail(config, 2, 256), networks.tail(config, 2, 256, Held(2, 2))
    blocks = 8 * (12 * 1024**2 + 9 * 1024)
    head = 1025 * 4096
    assert whole.weight_bytes == pytest.approx(4 * (blocks + head), rel=1e-3)
    assert half.weight_bytes == pytest.approx(2 * blocks + 4 * head, rel=1e-3)
    assert half.flops == whole.flops


@pytest.mark.parametrize(("depth", "figure"), [(16, 0.86), (20, 1.66), (24, 2.85), (30, 5.52)])
def test_a_training_step_of_the_specification(depth, figure):
    found = training_cost(resolve(read_config(f"hmar-d{depth}"), {}), 1)
    assert found.model_flops / 1e12 == pytest.approx(figure, rel=5e-3)


@pytest.mark.parametrize("phase", ["next-scale", "masked"])
def test_a_training_step_costs_what_pytorch_counts(phase):
    config, batch = tiny(), 2
    model = randomise(HMAR(config), 0)
    if phase == "masked":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(("mask_blocks", "mask_head", "mask_embed")))
    later = config.scales.tokens - 1
    ahead, own = (torch.randn(batch, later, config.latent_channels) for _ in range(2))
    masked = torch.arange(config.scales.tokens) % 2 == 1
    rows = torch.arange(batch)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if phase == "masked":
            logits = model.masked_logits(rows, ahead, own, masked)
        else:
            logits = model.next_scale_logits(rows, ahead)
        forward = counter.get_total_flops()
        logits.sum().backward()
    found = training_cost(config, batch, phase)
    assert found.forward_flops == pytest.approx(forward, rel=1e-3)
    assert found.model_flops == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_step_of_no_images_is_refused():
    with pytest.raises(InputError, match="batch is 0; a step needs at least 1 image"):
        training_cost(tiny(), 0)


def test_all_scales_need_networks_of_their_own():
    with pytest.raises(InputError, match="all_scales is set, but tail is 3 of 3 blocks: such a model has no networks"):
        HmarRequest(tiny(tail=3), SETTINGS["var"])
    with pytest.raises(InputError, match="top_k is 900, but the model has 48 codes"):
        HmarRequest(tiny(), SamplingConfig())


def test_sizes_that_a_cost_without_torch_repeats():
    assert (networks.BLOCK_VECTORS, networks.HEAD_VECTORS) == (BLOCK_VECTORS, HEAD_VECTORS)


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["inspect", "--cost", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else " ".join(printed.err.split())


def test_a_preset_is_costed_without_a_bundle_or_pytorch(capsys):
    text = run(capsys, "--config", "hmar-d16", "--batch", "8", "--peak-tflops", "1")
    assert "8 images at once; 10 scales, 4 masked steps, guidance 1.7" in text
    for cell in ("conditions", "next_scale_tail", "masked_tail", "393.7 G", "998.6 G", "5.755 G"):
        assert cell in text
    assert "…" not in text, "a column does not fit a terminal of 80 characters"
    code = (
        "import sys; from himar_export.cli import main; "
        "code = main(['inspect', '--cost', '--config', 'hmar-d30', '--sampling', 'benchmark', '--json']); "
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["calls"] for row in json.loads(done.stdout)["components"]] == [1, 13, 10, 3, 13, 1]


def test_a_file_that_gives_scales_is_hmars(capsys, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"config": TINY}))
    found = json.loads(run(capsys, "--config", path, "--precision", "trunk=fp16", "--json"))
    assert found["precision"]["trunk"] == "fp16" and found["precision"]["var_tail"] == "fp32"
    assert "this model has no component 'dit_head'; its components are conditions, trunk" in run(
        capsys, "--config", path, "--precision", "dit_head=fp16", code=1
    )
    assert "sampling 'slow' is not in this configuration; it has default" in run(
        capsys, "--config", path, "--sampling", "slow", code=1
    )
    assert "low_steps is given, but an HMAR model has no such setting" in run(
        capsys, "--config", path, "--low-steps", "3", code=1
    )


def test_a_bundle_is_costed_with_its_own_decoder(capsys, hmar_bundle):
    found = json.loads(run(capsys, hmar_bundle, "--batch", "3", "--json"))
    named = {row["component"]: row for row in found["components"]}
    assert set(found["precision"].values()) == {"fp32"}
    config = FAMILY.bundle_config(_manifest(hmar_bundle), "x")
    sizes = FAMILY.usual_decoder(config)
    assert named["vae_decoder"]["flops"] == vae_decoder(sizes, 3, config.scales.side).flops
    assert "batch is 4, but the engines of" in run(capsys, hmar_bundle, "--batch", "4", code=1)


def _manifest(bundle):
    from himar_runtime import Bundle

    return Bundle.open(bundle).manifest
