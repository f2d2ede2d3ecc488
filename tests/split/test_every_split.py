"""Each stage and each block of the families that people use most is cut exactly, or refused: it is said which."""

import copy

import pytest
import timm
import torch
import torch.nn as nn
from tiers import fast_and_slow

from timm_abn.split import SplitError, split_backbone

# backbone -> how many stages and blocks it has, and those after which it cannot be cut
EVERY_SPLIT = {
    'test_resnet': (9, set()),
    'test_convnext': (13, set()),
    'test_efficientnet': (10, set()),
    'swin_tiny_patch4_window7_224': (16, set()),
    'test_vit': (6, set()),
    'vit_tiny_patch16_dinov3_qkvb': (12, set()),
}


def stages_and_blocks(model):
    """Return the paths of the stages of ``feature_info``, and of what lists and sequences of modules consist of."""
    paths = {info['module'] for info in model.feature_info}
    for path, module in model.named_modules():
        holder = model.get_submodule(path.rpartition('.')[0])
        if isinstance(holder, (nn.Sequential, nn.ModuleList)) and any(True for _ in module.children()):
            paths.add(path)
    return sorted(paths)


@pytest.mark.parametrize('name', fast_and_slow(EVERY_SPLIT, [], ['test_resnet', 'test_vit']))
@torch.no_grad()
def test_every_stage_and_block_is_exact_or_refused(name, record_property):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).double().eval()
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    size = model.pretrained_cfg['input_size'] if hasattr(model, 'set_input_size') else (3, 64, 64)
    images = torch.randn(1, *size, dtype=torch.float64)
    expected = model(images)
    refused = set()
    paths = stages_and_blocks(model)
    for path in paths:
        try:
            feature_extractor, perception_branch = split_backbone(copy.deepcopy(model), path)
        except SplitError as error:
            assert f'{path!r}' in str(error)
            refused.add(path)
        else:
            assert torch.equal(perception_branch(feature_extractor(images)), expected), path
    record_property('refused', sorted(refused))
    print(f'{name}: {len(paths) - len(refused)} of {len(paths)} are exact, refused are {sorted(refused)}')
    assert (len(paths), refused) == EVERY_SPLIT[name]
