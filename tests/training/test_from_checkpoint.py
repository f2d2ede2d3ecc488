"""What the launcher takes from a checkpoint: model, classes, image size and crop; and what it refuses in one line."""

import argparse
import json

import pytest
import timm
import torch
from timm_scripts import BOTH, MODEL, SMALL, STAND_IN

import timm_abn

ARGUMENTS = dict(backbone='test_resnet', mechanism='product', attention_map='sigmoid')


def save(path, name='abn', num_classes=3, bare=False, arguments=ARGUMENTS, **recorded):
    """Write what timm's script leaves of a model."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=num_classes, **arguments)
    args = argparse.Namespace(model=name, num_classes=num_classes, model_kwargs=arguments, **recorded)
    torch.save(model.state_dict() if bare else dict(state_dict=model.state_dict(), args=args), path)
    return path


def parsed(arguments):
    """Return the flags of a command line, of which the last word holds."""
    found = {}
    for word in arguments:
        if word.startswith('--'):
            found[flag := word] = []
        else:
            found[flag].append(word)
    return found


@pytest.fixture
def flags(shown, tmp_path):
    def flags(script, *said, **kwargs):
        path = save(tmp_path / 'last.pth.tar', **kwargs)
        flag = '--checkpoint' if script == 'validate.py' else '--resume'
        return parsed(shown(*said, flag, path, script=script)[0])

    return flags


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_a_checkpoint_says_what_it_is_of(flags, script):
    images = dict(input_size=None, img_size=48, mean=[0.5], std=[0.25], crop_pct=0.9, interpolation='bicubic')
    found = flags(script, **images)
    assert found['--model'] == ['abn'] and found['--num-classes'] == ['3']
    assert set(found['--model-kwargs']) >= {"backbone='test_resnet'", "mechanism='product'", "gate='features'"}
    assert found['--input-size'] == ['3', '48', '48'] and found['--mean'] == ['0.5'] * 3
    assert found['--std'] == ['0.25'] * 3 and found['--crop-pct'] == ['0.9'] and found['--interpolation'] == ['bicubic']


def test_what_is_said_goes_first(flags):
    said = ['--img-size', '64', '--crop-pct', '1.0', '--model-kwargs', 'hard_attention=0.5', '--mean', '0', '0', '0']
    found = flags('validate.py', *said, img_size=48, crop_pct=0.9, mean=[0.5], crop_mode='squash')
    assert found['--img-size'] == ['64'] and '--input-size' not in found
    assert found['--crop-pct'] == ['1.0'] and found['--mean'] == ['0', '0', '0'] and found['--crop-mode'] == ['squash']
    assert set(found['--model-kwargs']) >= {'hard_attention=0.5', "mechanism='product'", "backbone='test_resnet'"}


def test_bare_weights_tell_their_classes_and_other_models_of_timm_say_it_too(flags):
    found = flags('validate.py', '--model', 'abn', '--model-kwargs', 'backbone=test_resnet', bare=True, num_classes=7)
    assert found['--num-classes'] == ['7'] and '--input-size' not in found
    found = flags('validate.py', name='test_resnet', arguments={}, num_classes=5, img_size=32)
    assert found['--model'] == ['test_resnet'] and found['--num-classes'] == ['5']
    assert found['--input-size'] == ['3', '32', '32']


def test_a_recipe_needs_no_model_beside_a_checkpoint(shown, tmp_path):
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text('epochs: 3\ncrop_pct: 0.7\n')
    arguments, config = shown('--config', recipe, '--resume', save(tmp_path / 'last.pth.tar', crop_pct=0.9))
    assert parsed(arguments)['--model'] == ['abn'] and config == dict(epochs=3, crop_pct=0.7)
    assert '--crop-pct' not in parsed(arguments)


@pytest.mark.parametrize(
    ('script', 'said', 'kwargs', 'message'),
    [
        ('validate.py', ['--model', 'abn_resnet18'], {}, 'last.pth.tar is a checkpoint of abn, not of abn_resnet18.'),
        ('validate.py', ['--num-classes', '4'], {}, '--num-classes 4, but {path} is of 3 classes.'),
        ('validate.py', ['--model-kwargs', 'backbone=test_vit'], {}, 'the checkpoint is not one of abn: keys'),
        ('validate.py', ['--model-kwargs', 'split=layer2'], {}, 'the checkpoint is not one of abn: keys'),
        ('validate.py', [], dict(bare=True), 'last.pth.tar does not record its model: pass --model NAME.'),
        ('train.py', ['--model-kwargs', 'backbone=test_vit'], {}, 'the checkpoint is not one of abn: keys'),
    ],
)
def test_a_mismatch_is_one_line(launch, tmp_path, capfd, script, said, kwargs, message):
    path = save(tmp_path / 'last.pth.tar', **kwargs)
    flag = '--checkpoint' if script == 'validate.py' else '--resume'
    assert launch(script, *said, flag, path, '--data-dir', tmp_path) == 2
    (error,) = (line for line in capfd.readouterr().err.splitlines() if 'error' in line)
    assert error.startswith(f'timm-abn-{script[:-3]}: error: ') and message.format(path=path) in error


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
@pytest.mark.parametrize(
    ('content', 'message'), [(None, 'there is no checkpoint'), (b'x', 'not a checkpoint, or is damaged')]
)
def test_no_checkpoint_is_one_line(launch, tmp_path, capfd, script, content, message):
    path = tmp_path / 'last.pth.tar'
    if content:
        path.write_bytes(content)
    flag = '--checkpoint' if script == 'validate.py' else '--initial-checkpoint'
    assert launch(script, flag, path, '--model', 'abn_resnet18', '--data-dir', tmp_path) == 2
    error = capfd.readouterr().err
    assert message in error.splitlines()[-1] and 'Traceback' not in error


def test_a_wrong_weight_file_of_the_backbone_is_one_line(train, tmp_path, capfd):
    torch.save(timm.create_model('test_vit').state_dict(), tmp_path / 'vit.pth')
    assert train(model=[*MODEL, f'pretrained_backbone={tmp_path / "vit.pth"}']) == 2
    error = capfd.readouterr().err
    assert 'does not hold weights of test_resnet' in error.splitlines()[-1] and 'Traceback' not in error


def test_weights_of_the_backbone_are_read_and_named_once(train, tmp_path, capfd):
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'plain.pth')
    assert train('--lr', 0, model=[*MODEL, f'pretrained_backbone={tmp_path / "plain.pth"}']) == 0
    log = capfd.readouterr().err
    assert log.count('plain.pth') == 1 and 'Loaded' not in log and 'from state dict' not in log
    assert f'Weights of the backbone test_resnet: {tmp_path / "plain.pth"}' in log
    assert 'It starts from weights of a file, for the backbone; the attention stage has a copy of them' in log
    loaded = timm_abn.load_model('abn', checkpoint=tmp_path / 'run' / 'last.pth.tar')
    assert torch.equal(loaded.perception_branch.fc.weight, torch.load(tmp_path / 'plain.pth')['fc.weight'])


@pytest.mark.parametrize('scripts', BOTH)
def test_trained_validated_and_resumed_without_saying_it_again(launch, train, image_folder, tmp_path, capfd, scripts):
    flags = ['--img-size', 48, '--crop-pct', 0.8, '--crop-mode', 'squash', '--mean', 0.4, 0.4, 0.4]
    assert train(*flags, model=[*MODEL, 'mechanism=product', 'map_scale=2'], scripts=scripts) == 0
    path = tmp_path / 'run' / 'last.pth.tar'
    capfd.readouterr()
    workers = ['--workers', 0] if scripts != STAND_IN else []
    assert launch('validate.py', '--checkpoint', path, '--data-dir', image_folder, *workers, scripts=scripts) == 0
    out = capfd.readouterr().out
    result = json.loads(out[out.index('{') :])
    saved = torch.load(path, weights_only=False)
    assert result['top1'] == pytest.approx(saved['metric'], abs=1e-3) and result['model'] == 'abn'
    again = [*SMALL[: SMALL.index('--num-classes')], *SMALL[SMALL.index('--batch-size') :]]
    run = ['--epochs', 2, '--data-dir', image_folder, '--output', tmp_path]
    assert launch('train.py', '--resume', path, *again, *run, scripts=scripts) == 0
    resumed = torch.load(path, weights_only=False)
    assert resumed['epoch'] == 1 and resumed['args'].model_kwargs['map_scale'] == 2
    assert tuple(resumed['args'].input_size) == (3, 48, 48) and resumed['args'].crop_mode == 'squash'
    assert resumed['args'].label_names == ['class0', 'class1', 'class2'] and resumed['args'].origin == 'random weights'


def test_new_classes_begin_with_the_weights_of_others(launch, image_folder, tmp_path, capfd):
    path = save(tmp_path / 'five.pth.tar', num_classes=5, arguments=dict(backbone='test_resnet'))
    run = [*MODEL, *SMALL, '--data-dir', image_folder, '--output', tmp_path, '--lr', 0]
    without = [word for word in run if word not in ('--num-classes', '3')]
    assert launch('train.py', '--initial-checkpoint', path, *without) == 2
    (error,) = (line for line in capfd.readouterr().err.splitlines() if 'error' in line)
    assert 'has 3 classes (class0, class1, class2), but' in error and f'--pretrained --pretrained-path {path}' in error
