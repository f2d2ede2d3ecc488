import pytest
import timm
import torch

from timm_abn import TimmAbnError, class_names
from timm_abn.explain.class_names import class_index

MODEL = 'abn_resnet20_cifar.fashion_mnist'


def test_class_names():
    def names(name, **kwargs):
        return class_names(timm.create_model(name, device=torch.device('meta'), **kwargs))

    assert names(MODEL)[9] == 'ankle boot'
    assert names(MODEL, num_classes=3)[2] == 'class 2'
    assert names('abn', backbone='test_resnet', num_classes=1000)[281] == 'tabby'
    assert names('abn', backbone='test_resnet', num_classes=3)[2] == 'class 2'


def test_names_of_imagenet_are_read_once(monkeypatch):
    reads = []
    info = timm.data.ImageNetInfo
    counted = 'timm_abn.explain.class_names.ImageNetInfo'
    monkeypatch.setattr(counted, lambda subset: reads.append(subset) or info(subset))
    names = class_names(timm.create_model('abn', backbone='test_resnet', num_classes=1000))
    assert len(set(names)) > 900 and len(reads) == 1


@pytest.mark.parametrize(('given', 'index'), [('ant', 0), ('BEE', 1), ('2', 2), ('0', 3), ('Fly', 4), ('fly', 5)])
def test_class_by_name_or_number(given, index):
    assert class_index(given, ['ant', 'bee', 'wasp', '0', 'Fly', 'fly']) == index


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('be', "^no class is called 'be'; did you mean bee"),
        ('4', "^no class is called '4'; there are ant, bee, crane, crane"),
        ('crane', "^several classes are called 'crane'; give the number: 2, 3"),
        ('', "^no class is called ''; there are"),
    ],
)
def test_no_such_class(given, message):
    with pytest.raises(TimmAbnError, match=message):
        class_index(given, ['ant', 'bee', 'crane', 'crane'])
