"""Targets that carry masks through what timm's loaders do to targets."""

import pytest
import torch
from timm.data.loader import fast_collate
from torch.utils.data import default_collate

from timm_abn.training.errors import TrainingError
from timm_abn.training.packed_targets import is_packed, pack_target, unpack_target

MASKS = torch.randint(0, 256, (3, 2, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def stacked(labels, collate):
    image = torch.zeros(3, 5, 7, dtype=torch.uint8)
    return collate([(image, pack_target(label, masks)) for label, masks in zip(labels, MASKS)])[1]


@pytest.mark.parametrize('collate', [fast_collate, default_collate])
@pytest.mark.parametrize('labels', [[0, 2**40 + 1, -1], [torch.tensor(4), torch.tensor(0), torch.tensor(999)]])
def test_classes(collate, labels):
    target = stacked(labels, collate)
    assert is_packed(target) and target.shape == (3, 3, 5, 7)
    found, masks = unpack_target(target, num_maps=2)
    assert found.dtype == torch.int64 and found.tolist() == [int(label) for label in labels]
    assert torch.equal(masks, MASKS)
    one, _ = unpack_target(target[1:2], num_maps=2)
    assert one.tolist() == [int(labels[1])]


@pytest.mark.parametrize('collate', [fast_collate, default_collate])
@pytest.mark.parametrize('count', [1, 8, 9, 40])  # 35 bytes a plane
def test_attributes(collate, count):
    labels = torch.rand(count, 3, generator=torch.Generator().manual_seed(1)).T  # not contiguous, as of a table
    target = stacked(labels, collate)
    assert target.shape[1] == 2 + -(-4 * count // 35)
    found, masks = unpack_target(target, num_maps=2, num_labels=count)
    assert found.dtype == torch.float32 and torch.equal(found, labels) and torch.equal(masks, MASKS)


def test_other_targets_are_not_packed():
    assert not any(map(is_packed, [torch.zeros(3).long(), torch.zeros(3, 4), torch.zeros(3, 4).to(torch.uint8)]))


def test_number_of_masks_is_checked():
    with pytest.raises(TrainingError, match='the network has 1 attention maps, but the data 2 masks per image'):
        unpack_target(stacked([0, 1, 2], fast_collate), num_maps=1)
