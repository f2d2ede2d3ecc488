"""The losses of a refinement, by hand; that gradients reach it alone; and that training lowers them."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import Calls, tiny_backbone, tiny_images

import timm_abn.training.refinement_loss as module
from timm_abn.attached.network import AttachedNet
from timm_abn.records import Record, set_record
from timm_abn.training.faithful import mask_images
from timm_abn.training.refinement_loss import REST, keep_drawn_share, margins, refinement_terms


def refined(num_classes=5, kind=None, backbone='test_resnet', std=0.5):
    backbone = tiny_backbone(backbone, num_classes=num_classes)
    torch.nn.init.normal_(backbone.get_classifier().weight, std=std)
    set_record(backbone, Record(kind))
    network = AttachedNet(backbone, refined=True).eval()
    network.requires_grad_(False)
    network.refinement.requires_grad_(True)
    return network


def test_a_drawn_share_keeps_the_greatest_places():
    torch.manual_seed(0)
    maps = torch.rand(200, 1, 10, 10, requires_grad=True)
    kept = keep_drawn_share(maps)
    order = maps.flatten(1).argsort(dim=1, descending=True)
    assert (kept.flatten(1).gather(1, order).diff(dim=1) <= 0).all()  # never a smaller place before a greater one
    shares = (kept > 0.5).float().mean(dim=(1, 2, 3))
    assert shares.min() < 0.1 and shares.max() > 0.9 and abs(shares.mean() - 0.5) < 0.07
    kept[0].sum().backward()
    assert (maps.grad[0] > 0).all() and not maps.grad[1:].any()


@pytest.mark.parametrize(('num_classes', 'kind'), [(5, None), (5, 'sigmoid'), (1, None)])
def test_terms_by_hand_in_one_pass_of_both(monkeypatch, num_classes, kind):
    network, images = refined(num_classes, kind), tiny_images(4)
    monkeypatch.setattr(module, 'keep_drawn_share', lambda maps: maps)
    monkeypatch.setattr(module, 'mask_images', lambda images, maps, _: mask_images(images, maps, 'mean'))
    calls = Calls(network.backbone)
    terms = refinement_terms(network, images)
    assert calls.count == 1
    found = network.explain(images)
    classes = found.probabilities.argmax(dim=1)
    seen = network.look(images, with_cut=True)
    z = network.refinement(seen.cut, seen.last, network.class_map(seen.last, classes))
    kept = F.interpolate(z.sigmoid(), images.shape[2:], mode='bilinear')
    for name, shown, sign in (('kept', kept, 0), ('rest', 1 - kept, 1)):
        p = network.explain(images * shown).probabilities[range(4), classes]  # the mean of normalised images is 0
        torch.testing.assert_close(terms[name], -(sign + (1 - 2 * sign) * p).log().mean(), rtol=1e-4, atol=1e-5)


def test_of_sure_predictions_the_margin_is_finite():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = F.softplus(margins(logits, torch.tensor([0]), True)).sum()
    assert loss.item() == pytest.approx(200 - torch.tensor(2.0).log().item())
    loss.backward()
    assert logits.grad.tolist()[0] == pytest.approx([1, -0.5, -0.5])


def test_training_lowers_the_loss_of_the_refinement_alone():
    network, images = refined(backbone='test_vit', std=5.0), tiny_images(4).cumsum(2).cumsum(3) / 50
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(network.refinement.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)  # the same shares and backgrounds
        terms = refinement_terms(network, images)
        loss = terms['kept'] + REST * terms['rest']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad is not None for parameter in network.refinement.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.backbone.state_dict().items())
