"""The packaged model as the page serves it, and photos of noise."""

import numpy as np
import pytest
from PIL import Image

from timm_abn.app.models import OfferedModels
from timm_abn.app.photos import Photo

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'


@pytest.fixture(scope='session')
def served():
    return OfferedModels([MODEL]).load(MODEL)


@pytest.fixture(scope='session')
def photo_of():
    def photo_of(name, width, height):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Photo.of(name, Image.fromarray(pixels))

    return photo_of
