"""Attention within scales against the recordings and a dense mask: plain, packed for the fused kernel, on a GPU."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

from himar.families.hmar.attention import EachScale, can_fuse, each_scale, fused_scales, packed_starts
from tests.closeness import COMPONENT, assert_near

from .conftest import GOLDEN

BLOCKS = ("squares", "ragged")


def recorded(blocks: str) -> tuple[dict[str, np.ndarray], list[int], float]:
    with np.load(GOLDEN / "hmar-attention.npz") as archive:
        arrays = {name.removeprefix(f"{blocks}/"): archive[name] for name in archive.files if name.startswith(blocks)}
    return arrays, arrays["blocks"].tolist(), float(arrays["scale"])


def visible(sizes: list[int], kind: str) -> torch.Tensor:
    """Boolean (N, N): which column a row sees."""
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return block[:, None] == block if kind == "diagonal" else block[:, None] >= block


def dense(q, k, v, sizes, scale, kind="diagonal"):
    """Output and log-sum-exp with a bias over all N × N cells, as the released code would without its kernel."""
    scores = scale * q @ k.transpose(2, 3)
    scores = scores.masked_fill(~visible(sizes, kind).to(q.device), -math.inf)
    return scores.softmax(dim=-1) @ v, scores.logsumexp(dim=-1)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("kind", ["diagonal", "causal"])
def test_the_formulas_of_the_backward_pass(blocks, kind):
    arrays, sizes, scale = recorded(blocks)
    q, k, v, dout = (torch.from_numpy(arrays[name]).double() for name in ("q", "k", "v", "dout"))
    out, lse = dense(q, k, v, sizes, scale, kind)
    assert_near(out, arrays[f"{kind}/out"], COMPONENT, "out")
    assert_near(lse, arrays[f"{kind}/lse"], COMPONENT, "lse")
    p = (scale * q @ k.transpose(2, 3) - lse[..., None]).exp() * visible(sizes, kind)
    ds = p * (dout @ v.transpose(2, 3) - (out * dout).sum(dim=-1, keepdim=True))
    found = {"q": scale * ds @ k, "k": scale * ds.transpose(2, 3) @ q, "v": p.transpose(2, 3) @ dout}
    for name, gradient in found.items():
        assert_near(gradient, arrays[f"{kind}/d{name}"], COMPONENT, f"d{name}")


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("kind", ["diagonal", "causal"])
def test_the_kernel_that_a_cpu_runs_has_the_recorded_log_sums(blocks, kind):
    """Training's attention on a CPU is this operator, scale by scale; its own log-sum-exp is what backward uses."""
    arrays, sizes, scale = recorded(blocks)
    q, k, v = (torch.from_numpy(arrays[name]) for name in "qkv")
    outs, sums, start = [], [], 0
    for size in sizes:
        rows, first, start = slice(start, start + size), start if kind == "diagonal" else 0, start + size
        part = (q[:, :, rows].contiguous(), *(each[:, :, first:start].contiguous() for each in (k, v)))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*part, scale=scale)[:2]
        outs.append(out)
        sums.append(lse)
    assert_near(torch.cat(outs, dim=2), arrays[f"{kind}/out"], COMPONENT)
    assert_near(torch.cat(sums, dim=2), arrays[f"{kind}/lse"], COMPONENT)


def slow_varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale):
    """What the fused kernel computes, sequence by sequence: (T, heads, d) to (T, heads, d)."""
    assert starts_q.dtype == torch.int32 and starts_q.equal(starts_k)
    ends = starts_q.tolist()
    assert (ends[0], ends[-1], longest_q, longest_k) == (0, len(q), *[max(np.diff(ends))] * 2)
    parts = []
    for first, end in itertools.pairwise(ends):
        own = (each[first:end].transpose(0, 1) for each in (q, k, v))
        parts.append(torch.nn.functional.scaled_dot_product_attention(*own, scale=scale).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_scales_are_packed_for_the_fused_kernel(monkeypatch, blocks):
    monkeypatch.setattr(varlen, "varlen_attn", slow_varlen)
    arrays, sizes, scale = recorded(blocks)
    q, k, v = (torch.from_numpy(arrays[name]).requires_grad_() for name in "qkv")
    out = fused_scales(q, k, v, packed_starts(sizes, len(q)), max(sizes), scale)
    assert_near(out, arrays["diagonal/out"], COMPONENT)
    out.backward(torch.from_numpy(arrays["dout"]))
    for name, tensor in zip("qkv", (q, k, v), strict=True):
        assert_near(tensor.grad, arrays[f"diagonal/d{name}"], COMPONENT, f"d{name}")


def test_every_scale_of_every_row_has_its_place():
    assert packed_starts((1, 4, 9), 2).tolist() == [0, 1, 5, 14, 15, 19, 28]
    assert packed_starts([1, 4], 1).tolist() == [0, 1, 5]


def test_a_cpu_runs_each_scale_by_itself():
    q = torch.zeros(1, 2, 5, 8, dtype=torch.bfloat16)
    assert not can_fuse(q)
    attend = each_scale([1, 4], 1, torch.device("cpu"))
    assert attend.starts is None
    assert attend(q, q, q).shape == q.shape


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 64, 128])
def test_a_gpu_runs_all_scales_in_one_launch_and_agrees_with_the_dense_mask(monkeypatch, dtype, width):
    sizes = [side**2 for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
    torch.manual_seed(0)
    shape = (3, 4, sum(sizes), width)
    normal = [torch.randn(shape, device="cuda", dtype=dtype) for _ in range(4)]
    ours = [(each / each.norm(dim=-1, keepdim=True) * 3).detach().requires_grad_() for each in normal[:2]]
    ours.append(normal[2].requires_grad_())
    theirs = [each.detach().double().requires_grad_() for each in ours]
    launches = []
    launch = varlen.varlen_attn
    monkeypatch.setattr(varlen, "varlen_attn", lambda *a, **b: launches.append(1) or launch(*a, **b))
    attend = each_scale(sizes, 3, torch.device("cuda"))
    out, (expected, _) = attend(*ours), dense(*theirs, sizes, 1.0)
    assert len(launches) == (dtype != torch.float32)
    out.backward(normal[3])
    expected.backward(normal[3].double())
    limit = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-4}[dtype]
    assert_near(out, expected, limit, "out")
    for name, mine, other in zip("qkv", ours, theirs, strict=True):
        assert_near(mine.grad, other.grad, limit, f"d{name}")


@pytest.mark.gpu
@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_gpu_has_the_recorded_attention(blocks):
    arrays, sizes, scale = recorded(blocks)
    q, k, v = (torch.from_numpy(arrays[name]).cuda().half().requires_grad_() for name in "qkv")
    out = EachScale(sizes, scale, packed_starts(sizes, len(q)).cuda())(q, k, v)
    assert_near(out, arrays["diagonal/out"], 5e-3)
    out.backward(torch.from_numpy(arrays["dout"]).cuda().half())
    for name, tensor in zip("qkv", (q, k, v), strict=True):
        assert_near(tensor.grad, arrays[f"diagonal/d{name}"], 1e-2, f"d{name}")
