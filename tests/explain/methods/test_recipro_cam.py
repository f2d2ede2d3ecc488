"""Recipro-CAM: by hand, and against a literal loop over the places."""

import pytest
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_backbone, tiny_images

from timm_abn.explain.methods import create_explainer
from timm_abn.split import cut_backbone

WINDOW = torch.tensor([[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]], dtype=torch.float64)
TARGETS = torch.tensor([3, 0])


class Mean(nn.Module):
    """Logits: the mean of the only channel, and zero."""

    def __init__(self):
        super().__init__()
        self.num_classes = 2
        self.stem, self.pool, self.flatten = nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Conv2d(1, 2, 1, bias=False)
        self.feature_info = [dict(module='stem', num_chs=1, reduction=1), dict(module='head', num_chs=2, reduction=1)]
        with torch.no_grad():
            self.stem.weight.copy_(torch.tensor([1.0, 0, 0])[None, :, None, None])
            self.head.weight.copy_(torch.tensor([1.0, 0])[:, None, None, None])

    def forward(self, x):
        return self.flatten(self.head(self.pool(self.stem(x))))


def test_by_hand():
    images = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    images[0, 0] = torch.tensor([[1.0, 2], [3, 4]])
    maps = create_explainer('recipro_cam', Mean().double())(images, torch.tensor([0]))
    seen = torch.tensor([[1.125, 1.3125], [1.5, 1.6875]])  # for example 1/4 * 1 + 1/8 * 2 + 1/8 * 3 + 1/16 * 4
    probability = torch.sigmoid(seen / 4)
    expected = (probability - probability.min()) / (probability.max() - probability.min())
    torch.testing.assert_close(maps[0, 0], expected)


def mask_at(row, column, size):
    mask = torch.zeros(size + 2, size + 2, dtype=torch.float64)
    mask[row : row + 3, column : column + 3] = WINDOW
    return mask[1:-1, 1:-1]


def place_by_place(features, perceive, size, gate):
    """Return the probabilities that ``perceive`` gives of each place alone, min-max normalised."""
    maps = torch.zeros(len(features), 1, size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            maps[:, 0, row, column] = perceive(gate(features, mask_at(row, column, size)))
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return ((maps - low) / (high - low)).float()


def gate_maps(features, mask):
    return features * mask


def gate_tokens(features, mask):
    return torch.cat([features[:, :1], features[:, 1:] * mask.flatten()[None, :, None]], dim=1)


def gate_nhwc(features, mask):
    return features * mask[:, :, None]


GATES = {'test_resnet': gate_maps, 'test_vit': gate_tokens, 'swin_tiny_patch4_window7_224': gate_nhwc}


@torch.no_grad()
@pytest.mark.parametrize('backbone', GATES)
def test_equals_a_loop_over_the_places(backbone):
    model, images = tiny_backbone(backbone).double().eval(), tiny_images(dtype=torch.float64)
    parts = cut_backbone(model)
    expected = place_by_place(
        parts.feature_extractor(images),
        lambda features: parts.perception_branch(features).softmax(dim=1).gather(1, TARGETS[:, None])[:, 0],
        4,
        GATES[backbone],
    )
    for batch_size in (7, 64):
        maps = create_explainer('recipro_cam', model, batch_size=batch_size)(images, TARGETS)
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
def test_equals_a_loop_over_the_places_of_a_task(backbone):
    model, images = tiny_abn(backbone, multi_task=True).double(), tiny_images(dtype=torch.float64)
    maps = create_explainer('recipro_cam', model)(images, TARGETS)
    for row, task in enumerate(TARGETS.tolist()):
        attention = model.explain(images).attention_map[row : row + 1, task : task + 1]
        gated = model.gate(model.extract(images[row : row + 1]), attention)

        def yes(features, task=task, gated=gated):
            return model.forward_perception(gated._replace(x=features))[:, 2 * task : 2 * task + 2].softmax(dim=1)[:, 1]

        expected = place_by_place(gated.x, yes, 4, GATES[backbone])
        torch.testing.assert_close(maps[row : row + 1], expected, rtol=0, atol=1e-6)
