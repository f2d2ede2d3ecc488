"""The recipes: what timm makes of them, and that each baseline differs from its ABN in nothing but the model.

Commit e1fbaff had a file for each recipe and model; ``tests/fixtures/recipes_e1fbaff.json`` holds what was in them."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.scheduler import create_scheduler_v2
from timm_scripts import BOTH, ROOT, TIMM, needs_timm_scripts

from timm_abn.training.data.transforms import CROP_MODES
from timm_abn.training.errors import TrainingError
from timm_abn.training.recipes import find_recipe, read_settings, recipe_names, settings_for
from timm_abn.training.scripts import knows_multi_label

FILES_OF_E1FBAFF = json.loads((ROOT / 'tests' / 'fixtures' / 'recipes_e1fbaff.json').read_text())
NAMES = list(FILES_OF_E1FBAFF)
CAM = [name for name in NAMES if name.endswith('_cam')]
PAIRS = [name for name in NAMES if not name.endswith(('_baseline', '_cam'))]

# epochs, and those after which the learning rate drops (paper, sections 4.1, 4.3 and 4.4)
SCHEDULES = dict(
    cifar10=(300, 150, 225),
    cifar100=(300, 150, 225),
    svhn=(40, 20, 30),
    imagenet=(90, 45, 67),
    compcars=(50, 25, 35),
    celeba=(10, 4, 8),
)
OF_THE_PAPER = [name for name in NAMES if name.split('_')[0] in SCHEDULES]


def chosen(name):
    """Return the recipe and the model that stand for a file of commit e1fbaff."""
    return FILES_OF_E1FBAFF[name]['recipe'], FILES_OF_E1FBAFF[name]['model']


def read(name):
    recipe, model = chosen(name)
    return settings_for(read_settings(find_recipe(recipe)), model)


@pytest.mark.parametrize('name', NAMES)
def test_settings_are_those_that_each_model_had_in_a_file_of_its_own(name):
    assert read(name) == FILES_OF_E1FBAFF[name]['settings']


@pytest.mark.parametrize('name', NAMES)
def test_the_launcher_hands_those_settings_on(shown, monkeypatch, name):
    crops = []
    monkeypatch.setattr(
        'timm_abn.training.command.extend_timm_loader', lambda seed, crop_mode, masks: crops.append(crop_mode)
    )
    monkeypatch.setattr('timm_abn.training.command.check_model', lambda *arguments: None)  # has tests of its own
    recipe, model = chosen(name)
    expected = dict(FILES_OF_E1FBAFF[name]['settings'])
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
    newer = {'biased_scenes', 'fashion_mnist_faithful', 'finetune'}
    assert len(NAMES) == 75 and {chosen(name)[0] for name in NAMES} | newer == set(recipe_names())
    for name in recipe_names():
        settings = read_settings(find_recipe(name))
        assert timm.is_model(settings['model']) and settings_for(settings, None)['model'] == settings['model']


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


@pytest.mark.parametrize(
    ('text', 'message'),
    [('by_model: 3', 'by_model in .* must hold settings under patterns'), ('by_model: {a: 3}', 'must hold settings')],
)
def test_files_that_are_no_recipes(tmp_path, text, message):
    (tmp_path / 'bad.yaml').write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_settings(tmp_path / 'bad.yaml')


def test_an_unknown_recipe_is_one_line(launch, capfd):
    assert launch('train.py', '--recipe', 'cifar1000', '--data-dir', '.') == 2
    assert 'error: --recipe cifar1000 is not known: did you mean cifar100, cifar10?' in capfd.readouterr().err
    assert launch('train.py', '--recipe', 'x', '--data-dir', '.') == 2
    assert 'there are biased_scenes, celeba, cifar10, cifar100, compcars_maker,' in capfd.readouterr().err
    assert launch('train.py', '--recipe', 'svhn', '--config', 'a.yaml') == 2
    assert '--recipe svhn and --config a.yaml are both settings: pass one of them' in capfd.readouterr().err


def test_all_that_were_promised_are_there():
    networks = {
        'resnet20',
        'resnet32',
        'resnet44',
        'resnet56',
        'resnet110',
        'wrn28_4',
        'wrn28_10',
        'densenet100_12',
        'resnext29_8x64d',
    }
    imagenet = {'vgg16', 'vgg16_bn', 'resnet50', 'resnet101', 'resnet152', 'resnext50', 'seresnet152'}
    assert {f'{dataset}_{network}' for dataset in ('cifar10', 'cifar100') for network in networks} < set(PAIRS)
    assert {f'imagenet_{network}' for network in imagenet} < set(PAIRS)
    for target in ('model', 'maker'):
        assert {f'compcars_{target}_vgg16', f'compcars_{target}_resnet101'} < set(PAIRS)
    assert {name for name in PAIRS if name.startswith('svhn')}


@pytest.mark.parametrize('name', PAIRS)
def test_the_baseline_differs_in_the_model_alone(name):
    recipe, baseline = read(name), read(f'{name}_baseline')
    if recipe.get('task') == 'multilabel':
        assert recipe.pop('model_kwargs')['multi_task']
    assert recipe.pop('model').split('.')[0] == f'abn_{baseline.pop("model")}'
    assert recipe == baseline


def test_cam_recipes_are_those_of_the_paper():
    assert {f'imagenet_{network}_cam' for network in ('vgg16_bn', 'resnet50', 'resnet152')} < set(CAM)


@pytest.mark.parametrize('name', CAM)
def test_cam_differs_in_the_model_alone(name):
    recipe, baseline = read(name), read(f'{name.removesuffix("_cam")}_baseline')
    assert recipe.pop('model') == f'cam_{baseline.pop("model")}'
    baseline.pop('drop', None)  # VGG's fully connected layers, which CAM replaces
    assert recipe == baseline


@pytest.mark.parametrize('name', NAMES)
def test_models_are_registered(name):
    assert timm.is_model(read(name)['model'])


@pytest.mark.parametrize('name', recipe_names())
def test_command_in_the_recipe_is_its_own(name):
    lines = find_recipe(name).read_text().splitlines()
    assert f'timm-abn-train --recipe {name} ' in lines[1]
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize('name', OF_THE_PAPER)
def test_schedule_and_optimizer_are_the_papers(name):
    recipe = read(name)
    epochs, first, second = SCHEDULES[name.split('_')[0]]
    rate = 0.01 if name.startswith(('celeba', 'compcars', 'imagenet_vgg16')) and 'bn' not in name else 0.1
    assert (recipe['epochs'], recipe['lr'], recipe['momentum'], recipe['opt']) == (epochs, rate, 0.9, 'momentum')
    assert recipe['batch_size'] == dict(compcars=32, celeba=8).get(name.split('_')[0], 256)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe['lr'])
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe['sched'],
        num_epochs=epochs,
        decay_milestones=recipe['decay_milestones'],
        decay_rate=recipe['decay_rate'],
        warmup_epochs=recipe['warmup_epochs'],
    )
    rates = []
    for epoch in range(epochs):  # as timm's script does: a step after each epoch
        rates.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    expected = [rate] * first + [rate / 10] * (second - first) + [rate / 100] * (epochs - second)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize('name', OF_THE_PAPER)
def test_images_are_the_papers(name):
    recipe = read(name)
    dataset = name.split('_')[0]
    cfg = timm.get_pretrained_cfg(recipe['model']).to_dict()
    size = tuple(recipe.get('input_size') or cfg['input_size'])
    assert size == dict(imagenet=(3, 224, 224), compcars=(3, 224, 323), celeba=(3, 224, 224)).get(dataset, (3, 32, 32))
    mode = dict(imagenet='resize', compcars='squash', celeba='squash').get(dataset, 'pad')
    assert recipe['train_crop_mode'] == mode and mode in CROP_MODES
    mean = tuple(recipe.get('mean') or cfg['mean'])
    assert mean == ((0.485, 0.456, 0.406) if 'input_size' in recipe else (0.4914, 0.4822, 0.4465))


@needs_timm_scripts
@pytest.mark.parametrize('name', NAMES)
def test_timm_parses_it(name, monkeypatch, tmp_path):
    if 'task' in read(name) and not knows_multi_label(Path(TIMM) / 'train.py'):
        pytest.skip('these scripts have no --task')
    script = timm_train()
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(read(name)))
    monkeypatch.setattr(sys, 'argv', ['train.py', '--config', str(tmp_path / 'config.yaml'), '--data-dir', '.'])
    args = vars(script._parse_args()[0])
    flags = {action.dest: action for action in script.parser._actions}
    for key, value in read(name).items():
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
@pytest.mark.parametrize('name', ['compcars_model_resnet101', 'compcars_maker_vgg16_baseline'])
def test_recipe_of_compcars_trains(launch, compcars, tmp_path, name, scripts):
    model = 'abn' if not name.endswith('baseline') else 'test_resnet'
    backbone = ['--model-kwargs', 'backbone=test_resnet'] if model == 'abn' else []
    assert (
        launch(
            'train.py',
            '--recipe',
            chosen(name)[0],
            '--data-dir',
            compcars,
            '--model',
            model,
            *backbone,
            '--batch-size',
            3,
            '--epochs',
            1,
            '--device',
            'cpu',
            '--workers',
            0,
            '--output',
            tmp_path / 'out',
            '--experiment',
            'run',
            scripts=scripts,
        )
        == 0
    )
    checkpoint = torch.load(tmp_path / 'out' / 'run' / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].num_classes == (431 if '_model_' in name else 75)


@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize('name', ['celeba_resnet101', 'celeba_resnet101_baseline'])
def test_recipe_of_celeba_trains_and_validates(launch, celeba, tmp_path, capfd, name, scripts):
    if not knows_multi_label(scripts / 'train.py'):
        pytest.skip('these scripts have no --task')
    model = ['--model', 'test_resnet']
    if not name.endswith('baseline'):
        kwargs = [f'{key}={value}' for key, value in read(name)['model_kwargs'].items()]
        model = ['--model', 'abn', '--model-kwargs', 'backbone=test_resnet', *kwargs]
    flags = ['--num-classes', 3, '--batch-size', 2, '--epochs', 1, '--device', 'cpu', '--workers', 0]
    output = ['--output', tmp_path / 'out', '--experiment', 'run']
    # by path, as a copy of somebody's own would be given
    config = ['--config', find_recipe(chosen(name)[0]), '--data-dir', celeba]
    assert launch('train.py', *config, *model, *flags, *output, '--input-size', 3, 32, 32, scripts=scripts) == 0
    (row,) = csv.DictReader((tmp_path / 'out' / 'run' / 'summary.csv').open())
    checkpoint = ['--checkpoint', tmp_path / 'out' / 'run' / 'last.pth.tar']
    data = ['--dataset', 'celeba', '--data-dir', celeba, '--split', 'test', '--task', 'multilabel', '--num-classes', 3]
    assert launch('validate.py', *model, *data, *checkpoint, '--img-size', 32, '--crop-mode', 'squash') == 0
    result = json.loads(capfd.readouterr().out.split('--result\n')[-1])
    # by the stand-in: those of timm have been seen to train only
    assert result['accuracy'] == pytest.approx(float(row['eval_accuracy'])) and result['map'] == float(row['eval_map'])
    branches = [''] if name.endswith('baseline') else ['', 'attention_']
    assert all(
        0 <= float(row[f'eval_{branch}{metric}']) <= 100 for branch in branches for metric in ('accuracy', 'map')
    )
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
