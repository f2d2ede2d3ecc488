"""The recipes: the settings of the paper, and what timm makes of them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from paper_models import BACKBONES, CAM
from timm.scheduler import create_scheduler_v2
from timm_scripts import BOTH, TIMM, needs_timm_scripts, summary

from timm_abn.training.data.transforms import CROP_MODES
from timm_abn.training.recipes import find_recipe, read_settings, recipe_names, settings_for
from timm_abn.training.scripts import knows_multi_label

IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
# Of all (section 4.1): SGD with momentum, a tenth of the rate after 50 and 75 % of the epochs, images mirrored at
# random; weight decay, of every parameter, is that of the authors' code.
OF_ALL = dict(
    **dict(opt='momentum', momentum=0.9, weight_decay=1e-4, opt_kwargs=dict(filter_bias_and_bn=False)),
    **dict(sched='multistep', decay_rate=0.1, warmup_epochs=0, hflip=0.5, color_jitter=0.0, smoothing=0.0),
)
CIFAR = dict(epochs=300, decay_milestones=[151, 226], lr=0.1, batch_size=256, train_crop_mode='pad', crop_pct=1.0)
SQUASHED = dict(
    **dict(lr=0.01, train_crop_mode='squash', crop_mode='squash', crop_pct=1.0, **IMAGENET),
    **dict(interpolation='bilinear', train_interpolation='bilinear'),
)
COMPCARS = dict(  # section 4.3
    **dict(SQUASHED, dataset='compcars', train_split='train', val_split='test', input_size=[3, 224, 323]),
    **dict(epochs=50, decay_milestones=[26, 36], batch_size=32),
)
PAPER = dict(
    cifar10=dict(CIFAR, dataset='torch/cifar10', num_classes=10),  # section 4.1, as the next three
    cifar100=dict(CIFAR, dataset='torch/cifar100', num_classes=100),
    svhn=dict(
        **dict(CIFAR, dataset='torch/svhn', num_classes=10, epochs=40, decay_milestones=[21, 31]),
        **dict(train_split='train+extra', val_split='test'),
    ),
    imagenet=dict(
        **dict(num_classes=1000, input_size=[3, 224, 224], epochs=90, decay_milestones=[46, 68], lr=0.1),
        **dict(batch_size=256, train_crop_mode='resize', crop_pct=0.875, **IMAGENET),
        **dict(interpolation='bilinear', train_interpolation='bilinear'),
    ),
    compcars_model=dict(COMPCARS, num_classes=431, target_key='model'),
    compcars_maker=dict(COMPCARS, num_classes=75, target_key='maker'),
    celeba=dict(  # section 4.4; the batch is that of the authors' code
        **dict(SQUASHED, task='multilabel', dataset='celeba', num_classes=40, input_size=[3, 224, 224]),
        **dict(train_split='train+val', val_split='test', epochs=10, decay_milestones=[5, 9], batch_size=8),
    ),
)
PAIRS = [(recipe, backbone) for recipe, backbones in BACKBONES.items() for backbone in backbones]
OF_CAM = [(recipe, f'cam_{backbone}') for recipe, backbones in CAM.items() for backbone in backbones]
CASES = [*((recipe, f'{prefix}{name}') for recipe, name in PAIRS for prefix in ('abn_', '')), *OF_CAM]


def read(recipe, model=None):
    return settings_for(read_settings(find_recipe(recipe)), model)


def of_the_paper(recipe, model):
    """Return the settings that the paper has for a model, or, where it has none, the authors' code."""
    settings = dict(OF_ALL, **PAPER[recipe], model=model)
    if 'wrn28' in model or 'resnext29' in model:
        settings['weight_decay'] = 5e-4
    if 'wrn28' in model:
        settings['model_kwargs'] = dict(proj_drop_rate=0.3)  # section 4.2
    if model.endswith('vgg16') or model in ('abn_vgg16_bn', 'vgg16_bn'):
        settings['drop'] = 0.5  # the fully connected layers of VGG, which CAM has not
    if recipe == 'imagenet' and model.endswith('vgg16'):
        settings['lr'] = 0.01
    if model == 'abn_resnet20_cifar':
        settings['model'] = 'abn_resnet20_cifar.untrained'
    if recipe == 'celeba' and model.startswith('abn'):
        mechanism = dict(attention_map='raw', mechanism='product')  # of the authors' code
        settings['model_kwargs'] = dict(multi_task=True, task_chunk_size=1, **mechanism)
    return settings


@pytest.mark.parametrize(('recipe', 'model'), CASES)
def test_settings_are_those_of_the_paper_and_reach_the_script(shown, monkeypatch, recipe, model):
    crops = []
    monkeypatch.setattr(
        'timm_abn.training.command.extend_timm_loader', lambda seed, crop_mode, masks: crops.append(crop_mode)
    )
    monkeypatch.setattr('timm_abn.training.command.check_model', lambda *arguments: None)  # has tests of its own
    expected = of_the_paper(recipe, model)
    assert read(recipe, model) == expected and timm.is_model(expected['model'])
    crop_mode = expected.pop('crop_mode', None)  # of ours
    for flags in (['--recipe', recipe], ['--config', find_recipe(recipe)]):
        arguments, config = shown(*flags, '--model', model)
        assert config == expected and crops.pop() == crop_mode
        assert ('--model' in arguments[2:]) == (expected['model'] != model)


def test_what_the_command_line_says_goes_before_the_recipe(shown):
    arguments, config = shown('--recipe', 'cifar100', '--model', 'abn_wrn28_4_cifar', '--lr', '0.3')
    assert config['model'] == 'abn_wrn28_4_cifar' and config['weight_decay'] == 5e-4
    assert 'by_model' not in config and arguments[arguments.index('--lr') + 1] == '0.3'
    arguments, config = shown('--recipe', 'cifar10', '--model', 'abn_resnet20_cifar')
    assert config['model'] == arguments[-1] == 'abn_resnet20_cifar.untrained' and arguments[-2] == '--model'
    arguments, config = shown('--recipe', 'svhn', '--lr', '0.3')
    assert config['model'] == 'abn_resnet110_cifar' and '--model' not in arguments


def test_one_file_an_experiment():
    others = {'biased_scenes', 'fashion_mnist', 'fashion_mnist_faithful', 'finetune'}
    assert {*PAPER, *others} == set(recipe_names())
    for name in recipe_names():
        settings = read_settings(find_recipe(name))
        assert timm.is_model(settings['model']) and read(name)['model'] == settings['model']


def test_the_last_pattern_that_fits_says(tmp_path):
    (tmp_path / 'mine.yaml').write_text('model: a\nlr: 1\nby_model:\n  a*: {lr: 2, drop: 3}\n  "*b": {lr: 4}\n')
    settings = read_settings(tmp_path / 'mine.yaml')
    assert settings_for(settings, None) == dict(model='a', lr=2, drop=3)
    assert settings_for(settings, 'ab') == dict(model='ab', lr=4, drop=3)
    assert settings_for(settings, 'cb') == dict(model='cb', lr=4) and settings_for(settings, 'c')['lr'] == 1


def test_a_tag_changes_no_settings_and_stays():
    imagenet, cifar10 = (read_settings(find_recipe(name)) for name in ('imagenet', 'cifar10'))
    for model, tagged in (('vgg16', 'vgg16.tv_in1k'), ('vgg16_bn', 'vgg16_bn.tv_in1k'), ('resnet50', 'resnet50.x')):
        assert settings_for(imagenet, tagged) == dict(settings_for(imagenet, model), model=tagged)
    assert settings_for(cifar10, 'abn_resnet20_cifar')['model'] == 'abn_resnet20_cifar.untrained'
    tagged = 'abn_resnet20_cifar.fashion_mnist'
    assert settings_for(cifar10, tagged)['model'] == tagged


def test_an_unknown_recipe_is_one_line(launch, capfd):
    assert launch('train.py', '--recipe', 'cifar1000', '--data-dir', '.') == 2
    assert 'error: --recipe cifar1000 is not known: did you mean cifar100, cifar10?' in capfd.readouterr().err
    assert launch('train.py', '--recipe', 'x', '--data-dir', '.') == 2
    assert 'there are biased_scenes, celeba, cifar10, cifar100, compcars_maker,' in capfd.readouterr().err
    assert launch('train.py', '--recipe', 'svhn', '--config', 'a.yaml') == 2
    assert '--recipe svhn and --config a.yaml are both settings: pass only one' in capfd.readouterr().err


@pytest.mark.parametrize(('recipe', 'backbone'), [*PAIRS, ('fashion_mnist', 'resnet20_cifar')])
def test_the_baseline_and_cam_differ_in_the_model_alone(recipe, backbone):
    abn, baseline = read(recipe, f'abn_{backbone}'), read(recipe, backbone)
    if abn.get('task') == 'multilabel':
        assert abn.pop('model_kwargs')['multi_task']
    assert abn.pop('model').split('.')[0] == f'abn_{baseline.pop("model")}'
    assert abn == baseline
    if (recipe, f'cam_{backbone}') in OF_CAM:
        cam = read(recipe, f'cam_{backbone}')
        assert cam.pop('model') == f'cam_{backbone}'
        baseline.pop('drop', None)  # VGG's fully connected layers, which CAM replaces
        assert cam == baseline


@pytest.mark.parametrize('name', recipe_names())
def test_command_in_the_recipe_is_its_own(name):
    lines = find_recipe(name).read_text().splitlines()
    assert f'timm-abn-train --recipe {name} ' in lines[1]
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize('recipe', PAPER)
def test_the_rate_drops_after_the_epochs_of_the_paper(recipe):
    settings = read(recipe)
    drops = dict(cifar10=(150, 225), cifar100=(150, 225), svhn=(20, 30), imagenet=(45, 67), celeba=(4, 8))
    (first, second), epochs, rate = drops.get(recipe, (25, 35)), settings['epochs'], settings['lr']
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    keys = ('sched', 'decay_milestones', 'decay_rate', 'warmup_epochs')
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=epochs, **{key: settings[key] for key in keys})
    rates = []
    for epoch in range(epochs):  # as timm's script does: a step after each epoch
        rates.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    expected = [rate] * first + [rate / 10] * (second - first) + [rate / 100] * (epochs - second)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(('recipe', 'model'), CASES)
def test_images_are_those_of_the_paper(recipe, model):
    settings = read(recipe, model)
    cfg = timm.get_pretrained_cfg(settings['model']).to_dict()
    size = tuple(settings.get('input_size') or cfg['input_size'])
    sizes = dict(imagenet=(3, 224, 224), compcars_model=(3, 224, 323), compcars_maker=(3, 224, 323))
    assert size == dict(sizes, celeba=(3, 224, 224)).get(recipe, (3, 32, 32))
    assert settings['train_crop_mode'] in CROP_MODES
    mean = tuple(settings.get('mean') or cfg['mean'])
    assert mean == ((0.485, 0.456, 0.406) if 'input_size' in settings else (0.4914, 0.4822, 0.4465))


@needs_timm_scripts
@pytest.mark.parametrize(('recipe', 'model'), CASES)
def test_timm_parses_it(recipe, model, monkeypatch, tmp_path):
    settings = read(recipe, model)
    if 'task' in settings and not knows_multi_label(Path(TIMM) / 'train.py'):
        pytest.skip('these scripts have no --task')
    script = timm_train()
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(sys, 'argv', ['train.py', '--config', str(tmp_path / 'config.yaml'), '--data-dir', '.'])
    args = vars(script._parse_args()[0])
    flags = {action.dest: action for action in script.parser._actions}
    for key, value in settings.items():
        if key == 'crop_mode':  # ours
            continue
        assert args[key] == value and key in flags
        kind = flags[key].type
        for item in value if isinstance(value, list) else [value]:
            assert kind is None or isinstance(kind(item), type(item)) or kind is float and isinstance(item, int), key


def timm_train():
    spec = importlib.util.spec_from_file_location('timm_train', Path(TIMM) / 'train.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize('target', ['model', 'maker'])
def test_recipe_of_compcars_trains(launch, compcars, tmp_path, target, scripts):
    model = ['abn', '--model-kwargs', 'backbone=test_resnet'] if target == 'model' else ['test_resnet']
    flags = ['--batch-size', 3, '--epochs', 1, '--device', 'cpu', '--workers', 0, '--output', tmp_path / 'out']
    run = ['--recipe', f'compcars_{target}', '--data-dir', compcars, *flags, '--experiment', 'run']
    assert launch('train.py', *run, '--model', *model, scripts=scripts) == 0
    checkpoint = torch.load(tmp_path / 'out' / 'run' / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].num_classes == (431 if target == 'model' else 75)


@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize('is_abn', [True, False])
def test_recipe_of_celeba_trains_and_validates(launch, celeba, tmp_path, capfd, is_abn, scripts):
    if not knows_multi_label(scripts / 'train.py'):
        pytest.skip('these scripts have no --task')
    model = ['--model', 'test_resnet']
    if is_abn:
        kwargs = [f'{key}={value}' for key, value in read('celeba', 'abn')['model_kwargs'].items()]
        model = ['--model', 'abn', '--model-kwargs', 'backbone=test_resnet', *kwargs]
    flags = ['--num-classes', 3, '--batch-size', 2, '--epochs', 1, '--device', 'cpu', '--workers', 0]
    output = ['--output', tmp_path / 'out', '--experiment', 'run']
    # by path, as a copy of somebody's own would be given
    config = ['--config', find_recipe('celeba'), '--data-dir', celeba]
    assert launch('train.py', *config, *model, *flags, *output, '--input-size', 3, 32, 32, scripts=scripts) == 0
    (row,) = summary(tmp_path / 'out')
    checkpoint = ['--checkpoint', tmp_path / 'out' / 'run' / 'last.pth.tar']
    data = ['--dataset', 'celeba', '--data-dir', celeba, '--split', 'test', '--task', 'multilabel', '--num-classes', 3]
    assert launch('validate.py', *model, *data, *checkpoint, '--img-size', 32, '--crop-mode', 'squash') == 0
    result = json.loads(capfd.readouterr().out.split('--result\n')[-1])
    # by the stand-in: those of timm have been seen to train only
    assert result['accuracy'] == pytest.approx(float(row['eval_accuracy'])) and result['map'] == float(row['eval_map'])
    branches = ['', 'attention_'] if is_abn else ['']
    for name in (f'eval_{branch}{metric}' for branch in branches for metric in ('accuracy', 'map')):
        assert 0 <= float(row[name]) <= 100
    assert ('eval_attention_accuracy' in row) == (len(branches) == 2)
    assert float(row['train_loss']) > 0.5 * len(branches)  # ln 2 for each branch


def test_the_recipe_of_faithful_maps_differs_from_that_of_the_paper_s_loss_in_the_fine_tuning_alone():
    faithful, paper = (read_settings(find_recipe(name)) for name in ('fashion_mnist_faithful', 'fashion_mnist'))
    differ = {name for name in faithful.keys() | paper.keys() if faithful.get(name) != paper.get(name)}
    assert differ == {
        *('model', 'pretrained', 'model_kwargs', 'map_loss', 'map_loss_weights'),
        *('lr', 'epochs', 'batch_size', 'warmup_epochs', 'warmup_lr'),
    }
    assert faithful['model_kwargs']['mechanism'] == 'product' and faithful['map_loss'] == 'masked'
