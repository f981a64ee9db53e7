"""A vocabulary of CLIP's kind, trained by the tests that use it, as transformers would load it."""

from pathlib import Path

import pytest

from himar_kernels.text.files import write_vocabulary
from himar_kernels.text.training import train_vocabulary
from himar_kernels.text.vocabulary import Vocabulary

from .captions import captions


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return train_vocabulary(captions(2000, seed=5), 1500)


@pytest.fixture(scope="session")
def clip_folder(vocabulary, tmp_path_factory) -> Path:
    """vocab.json and merges.txt."""
    root = tmp_path_factory.mktemp("clip")
    write_vocabulary(vocabulary, root)
    return root / "tokenizer"
