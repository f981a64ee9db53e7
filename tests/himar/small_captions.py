"""A few images with a captions file as MS-COCO's, for the tests of captions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ANNOTATIONS: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 30, "file_name": "c.png", "height": 40, "width": 48},
        {"id": 9, "file_name": "a.png", "height": 40, "width": 48},
        {"id": 25, "file_name": "b.png", "height": 40, "width": 48},
    ],
    "annotations": [
        {"image_id": 30, "id": 1, "caption": "A red bus on a street."},
        {"image_id": 9, "id": 2, "caption": "Two zebras."},
        {"image_id": 25, "id": 3, "caption": "A kitchen.\n"},
        {"image_id": 9, "id": 4, "caption": "Zebras in a field"},
        {"image_id": 30, "id": 5, "caption": "A bus parked at night"},
        {"image_id": 30, "id": 6, "caption": "a bus"},
    ],
}


def write_images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for image in ANNOTATIONS["images"]:
        low = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        low.resize((48, 40), Image.Resampling.BICUBIC).save(folder / image["file_name"])
    return folder


def write_captions(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**ANNOTATIONS, **changes}))
    return path
