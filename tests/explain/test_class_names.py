import timm
import torch

from timm_abn import class_names

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
