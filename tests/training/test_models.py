import logging
import warnings

import pytest
import timm
import torch

from timm_abn.models.creating import ModelError, create_model
from timm_abn.training.errors import TrainingError
from timm_abn.training.models import check_model


@pytest.mark.parametrize(
    'name, arguments, message',
    [
        ('abn', dict(backbone='test_resnet', mechanism='x'), "^abn cannot be .* mechanism='x': mechanism m"),
        ('abn', dict(backbone='nosuch'), "Unknown backbone 'nosuch'"),
        ('test_resnet', dict(output_stride=7), 'cannot be created with output_stride=7: AssertionError'),
    ],
)
def test_what_cannot_be_created_is_one_line(name, arguments, message):
    for create, kind in ((check_model, TrainingError), (create_model, ModelError)):
        if create is check_model and name == 'test_resnet':
            assert create(name, arguments) is None  # of which the script can tell
            continue
        with pytest.raises(kind, match=message) as error:
            create(name, arguments)
        assert '\n' not in str(error.value) and 'device' not in str(error.value)


def test_created_model_is_that_of_timm():
    model = create_model('abn', dict(backbone='test_resnet', num_classes=3))
    assert model.num_classes == 3 and next(model.parameters()).device.type == 'cpu'


def test_check_takes_no_weights_and_says_nothing(monkeypatch, caplog):
    def load(*args, **kwargs):
        raise AssertionError('weights were asked for')

    monkeypatch.setattr('timm.models._builder.load_pretrained', load)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        # a cut at the end of a stage of ConvNeXt warns
        check_model('abn', dict(backbone='test_convnext', split='stages.1', pretrained_backbone=True))
    assert not caplog.records and logging.root.manager.disable == logging.NOTSET
    with pytest.raises(ModelError, match='weights were asked for'):
        create_model('abn', dict(backbone='test_convnext', split='stages.1', pretrained_backbone=True))


def test_what_the_meta_device_cannot_do_is_left_to_the_script(monkeypatch):
    entrypoint = timm.model_entrypoint('test_resnet')

    def reads_values(**kwargs):
        assert torch.zeros(1).item() == 0
        return entrypoint(**kwargs)

    monkeypatch.setitem(timm.models._registry._model_entrypoints, 'test_resnet', reads_values)
    check_model('test_resnet', {})
