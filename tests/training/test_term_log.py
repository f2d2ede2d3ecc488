"""What the log says of the loss: its terms, each of them once an epoch, and what is trained."""

import logging
import re

import pytest
import torch
from PIL import Image
from timm_scripts import BOTH, summary

from timm_abn.training.term_log import TermLog, describe_terms


def test_means_are_of_an_epoch(caplog):
    log, metrics = TermLog(), {}
    log.begin(dict(perception=1.0, attention=0.5))
    log.watch(dict(perception=torch.tensor(1.0), attention=torch.tensor(4.0), area=torch.tensor(9.0)), 2)
    log.watch(dict(perception=torch.tensor(4.0), attention=torch.tensor(1.0)), 1)
    with caplog.at_level(logging.INFO):
        log.add_to(3, metrics)
        log.add_to(4, metrics)  # of which there was none
    assert metrics == dict(perception_loss=2.0, attention_loss=3.0)
    assert caplog.messages == ['Training of epoch 3: loss 3.5 = perception 2 + 0.5 x attention 3']


def test_a_loss_in_words():
    assert describe_terms(dict(perception=1.0, attention=1.0)) == 'perception + attention'
    assert describe_terms(dict(perception=1.0, masked=1.0, area=0.25)) == 'perception + masked + 0.25 x area'


@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize(
    ('flags', 'weights'),
    [
        ([], dict(perception=1, attention=1)),
        (['--attention-loss-weight', 0.5], dict(perception=1, attention=0.5)),
        (
            '--map-loss masked --hard-attention 0.5 --map-loss-weights area=0.5 smoothness=0.1 complement=0.2'.split(),
            dict(perception=1, attention=1, masked=1, area=0.5, smoothness=0.1, complement=0.2),
        ),
    ],
)
def test_the_log_holds_each_term_once(train, tmp_path, capfd, scripts, flags, weights):
    assert train(*flags, scripts=scripts) == 0
    log = capfd.readouterr().err
    (line,) = re.findall(r'Attention Branch Network over .*', log)
    assert 'Network over test_resnet, cut after layer3; attention stage: copy of layer4' in line
    assert 'It starts from random weights.' in line
    assert [part.split()[-1] for part in line.partition('Loss: ')[2].rstrip('.').split(' + ')] == list(weights)
    (row,) = summary(tmp_path)
    terms = {name: float(row[f'train_{name}_loss']) for name in weights}
    assert sum(weights[name] * terms[name] for name in weights) == pytest.approx(float(row['train_loss']), rel=1e-3)
    (epoch,) = re.findall(r'Training of epoch 0: loss (.*) = (.*)', log)
    assert float(epoch[0]) == pytest.approx(float(row['train_loss']), rel=1e-2)
    assert all(f'{name} {terms[name]:.4g}' in epoch[1] for name in weights)


def test_human_masks_are_a_term(train, image_folder, tmp_path, capfd):
    masks = tmp_path / 'masks'
    for image in sorted((image_folder / 'train').rglob('*.png')):
        path = masks / image.relative_to(image_folder / 'train')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', Image.open(image).size, 255).save(path)
    flags = ['--attention-mask-dir', masks, '--attention-mask-weight', 0.5]
    assert train(*flags) == 0
    (row,) = summary(tmp_path)
    terms = [float(row[f'train_{name}_loss']) for name in ('perception', 'attention', 'masks')]
    assert float(row['train_loss']) == pytest.approx(terms[0] + terms[1] + 0.5 * terms[2], rel=1e-3)
    assert '+ 0.5 x masks.' in capfd.readouterr().err


def test_what_is_no_abn_has_no_terms(train, tmp_path, capfd):
    assert train() == 0
    capfd.readouterr()
    assert train('--output', tmp_path / 'plain', model=['--model', 'test_resnet']) == 0
    (row,) = summary(tmp_path / 'plain')
    assert 'train_perception_loss' not in row and 'Training of epoch' not in capfd.readouterr().err
