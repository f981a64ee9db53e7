"""The light runtime: opens a bundle and generates images with compiled engines. No torch, ever.

    pipeline = Pipeline.load("bundle", device="cuda:0")
    result = pipeline.generate([207, 360], seed=7, guidance=2.5)
    result.images  # uint8 (B, H, W, 3), RGB

Importing this package is light: ONNX Runtime is imported when an engine is loaded, Pillow when a PNG is
written.
"""

from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo

from .bundle.bundle import Bundle
from .bundle.manifest import SCHEMA_VERSION, ComponentSpec, Manifest, TensorSpec, parse_manifest
from .engines.engine import Device, DeviceArray, Engine
from .engines.networks import Networks, load_engine, load_networks
from .pipeline import Pipeline
from .png import read_recipes, write_png
from .recipe import Recipe
from .result import Progress, Result

__all__ = [
    "SCHEMA_VERSION",
    "Bundle",
    "ComponentSpec",
    "Device",
    "DeviceArray",
    "Engine",
    "Manifest",
    "ModelInfo",
    "Networks",
    "PhaseInfo",
    "Pipeline",
    "Progress",
    "Recipe",
    "Result",
    "TensorSpec",
    "load_engine",
    "load_networks",
    "parse_manifest",
    "read_recipes",
    "write_png",
]
