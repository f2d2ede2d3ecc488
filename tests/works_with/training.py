"""Checks of ways to train."""

import copy

import torch
from timm.optim import param_groups_layer_decay

from .subjects import Subject, gradients_of, loss_of, outputs_of


def mixed_precision(subject: Subject) -> None:
    """Outputs in bfloat16 are close to those in float32, and gradients are finite."""
    model, images = subject.make().train(), subject.images(4)
    expected = outputs_of(copy.deepcopy(model), images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = outputs_of(model, images)
        loss_of(model, images).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    for low, exact in zip(actual, expected, strict=True):
        assert (low.float() - exact).norm() < 0.1 * exact.norm()


def channels_last(subject: Subject) -> None:
    """Outputs and gradients equal those of the usual layout."""
    model, images = subject.make().train(), subject.images()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    other_images = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs_of(other, other_images), outputs_of(model, images))
    torch.testing.assert_close(gradients_of(other, other_images), gradients_of(model, images), rtol=1e-3, atol=1e-4)


def grad_checkpointing(subject: Subject) -> None:
    """Gradients equal those without it, and modules run once more."""
    gradients, calls = [], []
    for enable in (False, True):
        model = subject.make().train()
        model.set_grad_checkpointing(enable)
        count = [0]
        for module in model.modules():
            module.register_forward_pre_hook(lambda *args, count=count: count.__setitem__(0, count[0] + 1))
        gradients.append(gradients_of(model, subject.images()))
        calls.append(count[0])
    assert calls[0] < calls[1]
    torch.testing.assert_close(gradients[1], gradients[0])


def layer_decay(subject: Subject) -> None:
    """Every parameter is in a group, and those of the backbone keep the scales that they have without a branch."""

    def scales(model: torch.nn.Module) -> dict:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        found = {names.pop(id(tensor)): group['lr_scale'] for group in groups for tensor in group['params']}
        assert not names, f'in no group: {list(names.values())}'
        return found

    actual, expected = scales(subject.make()), scales(Subject(subject.column, is_bare=True).make())
    assert len(set(expected.values())) > 2
    for name, scale in actual.items():
        part, _, rest = name.partition('.')
        of_branch = not subject.is_bare and part == 'attention_branch'
        in_backbone = name if subject.is_bare else rest
        assert scale == (1 if of_branch else expected[in_backbone]), name
