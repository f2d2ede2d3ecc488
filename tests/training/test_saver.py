"""Checkpoint files are old or new at every moment, with links and without."""

import os

import pytest
import timm
import timm.task
import torch
from timm.utils import CheckpointSaver

import timm_abn.task  # noqa: F401  extends timm's tasks
from timm_abn.training.saver import extend_timm_saver


@pytest.fixture
def saver(tmp_path, monkeypatch):
    for name in ('_replace', '_duplicate', '__init__'):  # put back afterwards
        monkeypatch.setattr(CheckpointSaver, name, getattr(CheckpointSaver, name))
    extend_timm_saver()
    model = timm.create_model('abn', backbone='test_resnet', num_classes=2)
    task = timm.task.ClassificationTask(model, verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return CheckpointSaver(
        model, optimizer, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path), max_history=2, task=task
    )


@pytest.fixture(params=[True, False], ids=['links', 'no links'])
def links(request, monkeypatch):
    if not request.param:

        def link(*args):
            raise OSError('not supported')

        monkeypatch.setattr(os, 'link', link)


def epochs(folder):
    return {path.name: torch.load(path, weights_only=True)['epoch'] for path in folder.glob('*.pth.tar')}


def test_files_are_those_of_timm(saver, links, tmp_path):
    for epoch, metric in enumerate((10.0, 30.0, 20.0)):
        saver.save_checkpoint(epoch, metric)
    expected = {'last': 2, 'model_best': 1, 'checkpoint-1': 1, 'checkpoint-2': 2}
    assert epochs(tmp_path) == {f'{name}.pth.tar': epoch for name, epoch in expected.items()}
    assert {path.name for path in tmp_path.iterdir()} == set(epochs(tmp_path))


def test_no_moment_without_a_whole_file(saver, links, tmp_path, monkeypatch):
    saver.save_checkpoint(0, 10.0)
    names = {'last.pth.tar', 'model_best.pth.tar'}
    moments = []

    def watch(function):
        def watched(*args, **kwargs):
            moments.append(epochs(tmp_path))
            result = function(*args, **kwargs)
            moments.append(epochs(tmp_path))
            return result

        return watched

    for module, name in ((os, 'replace'), (os, 'remove'), (os, 'unlink')):
        monkeypatch.setattr(module, name, watch(getattr(module, name)))
    saver.save_checkpoint(1, 20.0)
    saver.save_checkpoint(1, 30.0)  # again: a link to what is there already
    assert len(moments) > 6 and all(names <= set(moment) for moment in moments)
    assert not list(tmp_path.glob('*.partial'))
