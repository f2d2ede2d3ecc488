import os
import types

import pytest
import timm
import torch
from timm.data import ImageNetInfo

from timm_abn import TimmAbnError, class_names
from timm_abn.data.class_names import find_class, name_classes, read_class_map, read_class_names

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
    counted = 'timm_abn.data.class_names.ImageNetInfo'
    monkeypatch.setattr(counted, lambda subset: reads.append(subset) or info(subset))
    names = class_names(timm.create_model('abn', backbone='test_resnet', num_classes=1000))
    assert len(set(names)) > 900 and len(reads) == 1


NAMES = ['sandal', 'sneaker', 'Sneaker', '0', 'crane', 'crane']


@pytest.mark.parametrize(
    ('wanted', 'index'), [('sandal', 0), ('SANDAL', 0), ('Sneaker', 2), ('sneaker', 1), ('0', 3), ('1', 1), ('5', 5)]
)
def test_a_class_is_found_by_name_or_index(wanted, index):
    assert find_class(wanted, NAMES) == index


@pytest.mark.parametrize(
    ('wanted', 'message'),
    [
        ('sneakr', "there is no class 'sneakr'; did you mean sneaker, Sneaker?"),
        ('6', "there is no class '6'; the model has 'sandal' (0) to 'crane' (5)"),
        ('-1', "there is no class '-1'; the model has 'sandal' (0) to 'crane' (5)"),
        ('crane', "there are several classes 'crane'; give the index of one: 4, 5"),
        ('SNEAKER', "there are several classes 'SNEAKER'; give the index of one: 1, 2"),
    ],
)
def test_a_class_that_is_not_found(wanted, message):
    with pytest.raises(TimmAbnError) as error:
        find_class(wanted, NAMES)
    assert str(error.value) == message


def test_names_are_read_from_a_file(tmp_path):
    path = tmp_path / 'names.txt'
    path.write_text('cat\nno beard\n', encoding='utf-8')
    assert read_class_names(path, types.SimpleNamespace(num_classes=2)) == ['cat', 'no beard']
    with pytest.raises(TimmAbnError, match='names.txt has 2 lines for 3 classes'):
        read_class_names(path, types.SimpleNamespace(num_classes=3))
    path.write_bytes('\ufeffcat\r\nno beard \r\n\r\n'.encode())  # as editors on Windows write it
    assert read_class_names(path, types.SimpleNamespace(num_classes=2)) == ['cat', 'no beard'] and read_class_map(
        path
    ) == {'cat': 0, 'no beard': 1}
    path.write_text('cat\n\ncat')
    with pytest.raises(TimmAbnError, match='line 2 of .*names.txt is blank'):
        read_class_names(path, types.SimpleNamespace(num_classes=3))
    path.write_text('cat\ncat')
    with pytest.raises(TimmAbnError, match="names 'cat' more than once"):
        read_class_map(path)
    path.write_bytes(b'\xff\xfe')
    with pytest.raises(TimmAbnError, match='names.txt is not a text file in UTF-8'):
        read_class_names(path, types.SimpleNamespace(num_classes=2))


def test_one_logit_has_two_names_or_that_of_its_yes(tmp_path):
    path = tmp_path / 'names.txt'
    path.write_text('tumour')
    model = types.SimpleNamespace(num_classes=1, pretrained_cfg={})
    assert name_classes(model, path) == ['not tumour', 'tumour'] and model.pretrained_cfg['label_names'] == ['tumour']
    path.write_text('healthy\ntumour')
    assert name_classes(model, path) == ['healthy', 'tumour']
    path.write_text('tumour')
    with pytest.raises(TimmAbnError, match=r'names.txt has 1 line for 2 classes'):
        read_class_names(path, types.SimpleNamespace(num_classes=2))


def test_folders_of_imagenet_are_called_by_words():
    model = types.SimpleNamespace(num_classes=1000, pretrained_cfg=dict(label_names=ImageNetInfo().label_names()))
    assert class_names(model)[:2] == ['tench', 'goldfish']
    model.pretrained_cfg = dict(label_names=[f'n{index}' for index in range(1000)])
    assert class_names(model)[:2] == ['n0', 'n1']


def test_what_no_terminal_takes_is_escaped():
    names = ['\x1b[2Jcat', os.fsdecode(b'no \xff'), 'two\nlines', 'k\xe4fer \U0001f41e']
    model = types.SimpleNamespace(num_classes=4, pretrained_cfg=dict(label_names=names))
    assert class_names(model) == [r'\x1b[2Jcat', r'no \udcff', r'two\nlines', 'k\xe4fer \U0001f41e']


def test_names_of_a_file_take_the_place_of_others(tmp_path):
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    model = types.SimpleNamespace(num_classes=2, pretrained_cfg=dict(label_names=['a', 'b'], num_classes=1000))
    assert name_classes(model, None) == ['a', 'b'] and name_classes(model, tmp_path / 'names.txt') == ['cat', 'dog']
    assert model.pretrained_cfg == dict(label_names=['cat', 'dog'], num_classes=2)
