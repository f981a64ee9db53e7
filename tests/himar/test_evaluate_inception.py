"""FID's Inception-v3: the layout of the weights file that users have, and what makes it FID's."""

import numpy as np
import pytest
import torch
from closeness import COMPONENT, assert_each_near, assert_near
from torch import nn

import himar.evaluation.inception as inception
from himar.evaluation.inception import InceptionExtractor, InceptionV3, load_inception, resize
from himar.evaluation.inception_blocks import average
from himar_kernels import CheckpointError, ConfigError, InputError

# torchvision's published layers: name, input and output channels, kernel height and width.
STEM = """
Conv2d_1a_3x3 3 32 3 3|Conv2d_2a_3x3 32 32 3 3|Conv2d_2b_3x3 32 64 3 3|Conv2d_3b_1x1 64 80 1 1|Conv2d_4a_3x3 80 192 3 3
Mixed_6a.branch3x3 288 384 3 3|Mixed_6a.branch3x3dbl_1 288 64 1 1|Mixed_6a.branch3x3dbl_2 64 96 3 3
Mixed_6a.branch3x3dbl_3 96 96 3 3
Mixed_7a.branch3x3_1 768 192 1 1|Mixed_7a.branch3x3_2 192 320 3 3|Mixed_7a.branch7x7x3_1 768 192 1 1
Mixed_7a.branch7x7x3_2 192 192 1 7|Mixed_7a.branch7x7x3_3 192 192 7 1|Mixed_7a.branch7x7x3_4 192 192 3 3
"""
MIXED_5 = """
branch1x1 I 64 1 1|branch5x5_1 I 48 1 1|branch5x5_2 48 64 5 5|branch3x3dbl_1 I 64 1 1|branch3x3dbl_2 64 96 3 3
branch3x3dbl_3 96 96 3 3|branch_pool I P 1 1
"""
MIXED_6 = """
branch1x1 768 192 1 1|branch7x7_1 768 I 1 1|branch7x7_2 I I 1 7|branch7x7_3 I 192 7 1|branch7x7dbl_1 768 I 1 1
branch7x7dbl_2 I I 7 1|branch7x7dbl_3 I I 1 7|branch7x7dbl_4 I I 7 1|branch7x7dbl_5 I 192 1 7|branch_pool 768 192 1 1
"""
MIXED_7 = """
branch1x1 I 320 1 1|branch3x3_1 I 384 1 1|branch3x3_2a 384 384 1 3|branch3x3_2b 384 384 3 1|branch3x3dbl_1 I 448 1 1
branch3x3dbl_2 448 384 3 3|branch3x3dbl_3a 384 384 1 3|branch3x3dbl_3b 384 384 3 1|branch_pool I 192 1 1
"""
BLOCKS = [
    ("Mixed_5b", MIXED_5, 192, 32), ("Mixed_5c", MIXED_5, 256, 64), ("Mixed_5d", MIXED_5, 288, 64),
    ("Mixed_6b", MIXED_6, 128, 0), ("Mixed_6c", MIXED_6, 160, 0), ("Mixed_6d", MIXED_6, 160, 0),
    ("Mixed_6e", MIXED_6, 192, 0), ("Mixed_7b", MIXED_7, 1280, 0), ("Mixed_7c", MIXED_7, 2048, 0),
]  # fmt: skip


def published_shapes() -> dict[str, tuple[int, ...]]:
    lines = STEM.replace("\n", "|").split("|")
    for name, block, inner, pooled in BLOCKS:
        text = block.replace(" I", f" {inner}").replace(" P", f" {pooled}")
        lines += [f"{name}.{line}" for line in text.replace("\n", "|").split("|") if line]
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for line in filter(None, lines):
        name, inputs, outputs, height, width = line.split()
        shapes[f"{name}.conv.weight"] = (int(outputs), int(inputs), int(height), int(width))
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (int(outputs),)
    return shapes


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, shape in published_shapes().items():
        value = torch.randn(shape, generator=generator)
        fan_in = value[0].numel() if value.ndim > 1 else 1
        values[name] = value * (2 / fan_in) ** 0.5 if value.ndim > 1 else 0.1 * value
        if name.endswith(("bn.weight", "running_var")):
            values[name] = 1 + 0.1 * value.abs()
    return values


@pytest.fixture(scope="module")
def network(state) -> InceptionV3:
    return load_inception(state, "state")


def test_takes_exactly_the_published_names_and_sizes(network):
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items() if "num_batches" not in name}
    assert ours == published_shapes()
    assert len({name.rsplit(".", 2)[0] for name in ours if ".conv." in name}) == 94
    # torchvision's 27,161,264 for 1,000 classes, less the 3,326,696 of its auxiliary classifier.
    assert sum(value.numel() for value in network.parameters()) == 27_161_264 - 3_326_696 + 8 * 2049
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.001}


def test_averages_do_not_count_padding():
    assert torch.equal(average(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


@torch.no_grad()
def test_only_the_last_block_pools_by_maximum(network):
    x = torch.randn(1, 2048, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    for name in ("Mixed_7b", "Mixed_7c"):
        block = getattr(network, name)
        channels = block.branch1x1.conv.in_channels
        hook = block.branch_pool.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        block(x[:, :channels])
        hook.remove()
    assert torch.equal(seen[0], average(x[:, :1280]))
    assert torch.equal(seen[1][0, 0, 1, 1], x[0, 0, :3, :3].max())
    assert seen[1].shape == x.shape


@torch.no_grad()
def test_features_are_pool3_the_first_maps_of_mixed_6_and_unbiased_probabilities(network):
    kept = {}
    hooks = [
        network.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, out: kept.update(maps=out)),
        network.Mixed_7c.register_forward_hook(lambda module, given, out: kept.update(last=out)),
    ]
    image = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pool, spatial, probabilities = network(image)
    for hook in hooks:
        hook.remove()
    assert kept["last"].shape == (1, 2048, 8, 8)
    assert_near(pool, kept["last"].mean((2, 3)), 1e-6)
    assert kept["maps"].shape == (1, 192, 17, 17)
    assert torch.equal(spatial.reshape(17, 17, 7), kept["maps"][0, :7].permute(1, 2, 0))
    assert_near(probabilities, (pool @ network.fc.weight.T).softmax(1), COMPONENT)
    assert pool.std() > 0.01


def test_resizing_is_tensorflows_first_bilinear():
    row = torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    assert resize(row, 4)[0, 0].tolist() == [[10, 15, 20, 20]] * 4
    image = torch.rand(1, 3, 299, 299)
    assert torch.equal(resize(image, 299), image)
    steps = torch.arange(598.0).view(1, 1, 1, -1).expand(1, 1, 598, -1)
    assert torch.equal(resize(steps, 299)[0, 0, 0], torch.arange(0, 598.0, 2))


def test_gives_the_features_of_torch_fidelity(state, tmp_path):
    # Computed with torch-fidelity 0.4.0's InceptionV3 on these same weights and this image, resizing included.
    pool = [2.6462, 1.15707, 1.76628, 2.40252, 0.0, 0.023773]
    map_means = [0.0, 0.0410165, 0.00145244, 0.306862, 0.379812, 0.446372, 0.107943]
    row_means = [0.481273, 0.398645, 0.333445, 0.151008]
    probabilities = [1.27935e-05, 0.00329279, 1.97667e-05, 0.000103588, 0.00021976, 3.2031e-07]
    torch.save(state, tmp_path / "weights.pth")
    image = (np.arange(48 * 40 * 3) ** 2 // 50 % 256).astype(np.uint8).reshape(1, 48, 40, 3)
    features = InceptionExtractor(tmp_path / "weights.pth")(image)
    assert_each_near(features.pool[0, ::341][:6], pool, 1e-4)
    maps = features.spatial.reshape(17, 17, 7)
    assert_each_near(maps.mean((0, 1)), map_means, 1e-4)
    assert_each_near(maps.mean((1, 2))[:4], row_means, 1e-4)
    assert_each_near(np.log(features.probabilities[0, ::168][:6]), np.log(probabilities), 1e-4)


def test_a_file_of_the_published_layout_gives_features(tmp_path, state, monkeypatch):
    file = tmp_path / "pt_inception.pth"
    # Newer copies of the file carry batch norm's counters.
    torch.save({**state, "Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}, file)
    extractor = InceptionExtractor(file)
    assert not extractor.published
    assert "pt_inception.pth" in extractor.name
    white = torch.full((2, 40, 40, 3), 255, dtype=torch.uint8).numpy()
    seen = []
    monkeypatch.setattr(extractor, "_network", lambda x: (seen.append(x), torch.zeros(2, 1))[1:] * 3)
    extractor(white)
    assert seen[0].shape == (2, 3, 299, 299)
    assert seen[0].unique().tolist() == [127 / 128]
    with pytest.raises(InputError, match="uint8"):
        extractor(white.astype("float32"))
    with pytest.raises(ConfigError, match="tpu9"):
        InceptionExtractor(file, "tpu9")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fc.weight": torch.zeros(1000, 2048)}, r"fc.weight has shape \(1000, 2048\)"),
        ({"AuxLogits.fc.bias": torch.zeros(1000)}, "unknown AuxLogits.fc.bias"),
        ({"Mixed_7c.branch_pool.bn.weight": None}, "lacks Mixed_7c.branch_pool.bn.weight"),
    ],
)
def test_other_weights_are_refused(state, change, named):
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=named):
        load_inception(changed, "other.pth")


def test_a_missing_file_names_the_one_that_is_needed(tmp_path):
    with pytest.raises(CheckpointError, match=inception.WEIGHTS_FILE):
        InceptionExtractor(tmp_path / "absent.pth")


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_features(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    cpu, gpu = (InceptionExtractor(tmp_path / "weights.pth", device)(images) for device in ("cpu", "cuda:0"))
    for ours, theirs in ((gpu.pool, cpu.pool), (gpu.spatial, cpu.spatial)):
        assert_near(ours, theirs, 1e-4)  # TF32 would be about 1e-3 away
