"""Checks of copies of a model, of what is made of it, and of its use from several threads."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from timm.utils import ModelEmaV3, reparameterize_model

from .subjects import Subject


def _is_equal_and_independent(subject: Subject, duplicate: Callable[[Any], Any]) -> None:
    model, images = subject.make(), subject.images()
    with torch.no_grad():
        expected = model(images)
        twin = duplicate(model)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
        assert torch.equal(twin(images), expected)


def deepcopy(subject: Subject) -> None:
    """A copy has the outputs of the model, whatever happens to the model afterwards."""
    _is_equal_and_independent(subject, copy.deepcopy)


def pickling(subject: Subject) -> None:
    """A pickled model has the outputs of the model, whatever happens to the model afterwards."""
    _is_equal_and_independent(subject, lambda model: pickle.loads(pickle.dumps(model)))


def moving_average(subject: Subject) -> None:
    """timm's ModelEmaV3 averages every parameter."""
    model = subject.make()
    average = ModelEmaV3(model, decay=0.75)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
    assert torch.isfinite(average(subject.images())).all()


def reparameterize(subject: Subject) -> None:
    """timm's reparameterize_model does not change the outputs."""
    model, images = subject.make(), subject.images()
    torch.testing.assert_close(reparameterize_model(model)(images), model(images))


def features_only(subject: Subject) -> None:
    """The features equal those that the stages return in the whole model."""
    model, images = subject.make(), subject.images()
    extractor = subject.make(features_only=True, feature_cls='hook')
    for name, tensor in extractor.state_dict().items():
        tensor.copy_(model.state_dict()[name.removeprefix('body.')])
    expected = {}
    for info in model.feature_info:
        model.get_submodule(info['module']).register_forward_hook(
            lambda module, args, output, name=info['module']: expected.__setitem__(name, output.clone())
        )
    with torch.no_grad():
        model(images)
        actual = extractor(images)
    names = extractor.feature_info.module_name()
    assert len(names) > 2
    for name, features in zip(names, actual, strict=True):
        torch.testing.assert_close(features, expected[name])


def threads(subject: Subject) -> None:
    """Eight threads that call one model get the same results as sequential calls, bit for bit."""
    model = subject.make()
    batches = [subject.images(2) * scale for scale in torch.linspace(0.5, 2, 32)]
    call = torch.no_grad()(model)
    expected = [call(images) for images in batches]
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(call, batches))
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
