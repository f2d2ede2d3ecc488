"""An Attention Branch Network over the smallest model of every family is cut exactly, trains and explains itself."""

import pytest
import timm
import torch
import torch.nn.functional as F
from tiers import fast_and_slow
from timm_families import SMALLER, SMALLEST, small_images

import timm_abn  # noqa: F401

FAST_FAMILIES = {'levit', 'resnet'}


@pytest.mark.parametrize('family', fast_and_slow(SMALLEST, FAST_FAMILIES))
def test_family_is_cut_exactly_and_trains_a_step(family):
    torch.manual_seed(0)
    small = dict(num_classes=4, **SMALLER.get(family, {}))
    network = timm.create_model('abn', backbone=SMALLEST[family], **small)
    with torch.no_grad():
        for parameter in network.perception_branch.parameters():  # heads and scales that begin at zero hide the rest
            parameter += 0.02 * torch.randn_like(parameter)
    images = small_images(family, network.perception_branch)
    assert_halves_are_the_backbone(network, SMALLEST[family], small, images)
    logits, attention_logits = network.train()(images)
    targets = torch.tensor([0, 3])
    (F.cross_entropy(logits, targets) + F.cross_entropy(attention_logits, targets)).backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not torch.isfinite(parameter.grad).all())
    ]
    assert not without
    # batch norm of two images, a place each, has gradients of up to 1e8 in Inception: timm's --clip-grad
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    explanation = network.eval().explain(images)
    assert torch.isfinite(explanation.logits).all()
    assert explanation.attention_map.std() > 0


@torch.no_grad()
def assert_halves_are_the_backbone(network, name, arguments, images):
    with torch.random.fork_rng():
        backbone = timm.create_model(name, **arguments)
    feature_extractor, perception_branch = network.feature_extractor, network.perception_branch
    backbone.load_state_dict({**feature_extractor.state_dict(), **perception_branch.state_dict()})
    expected = backbone.eval()(images)
    assert torch.isfinite(expected).all()
    assert torch.equal(perception_branch.eval()(feature_extractor.eval()(images)), expected)
