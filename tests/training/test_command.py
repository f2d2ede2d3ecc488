"""The launcher, end to end: with the stand-in for timm's scripts, and with timm's own where they are."""

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm_scripts import (
    BOTH,
    MODEL,
    ROOT,
    SMALL,
    STAND_IN,
    TIMM,
    finish,
    needs_timm_scripts,
    start,
    start_training,
    summary,
)

import timm_abn.task
from timm_abn.publish.folder import save_hub_folder


@pytest.fixture
def losses(monkeypatch):
    """What the loss of both branches was asked for, and gave."""
    seen = []
    forward = timm_abn.task.AttentionBranchLoss.forward

    def spy(self, output, target):
        loss = forward(self, output, target)
        seen.append((output, target, loss))
        return loss

    monkeypatch.setattr(timm_abn.task.AttentionBranchLoss, 'forward', spy)
    return seen


@pytest.mark.parametrize('scripts', BOTH)
def test_trains_both_branches(train, losses, tmp_path, scripts):
    assert train('--smoothing', 0, scripts=scripts) == 0 and len(losses) == 4
    (logits, attention_logits), target, loss = losses[0]
    torch.testing.assert_close(loss, F.cross_entropy(logits, target) + F.cross_entropy(attention_logits, target))
    (row,) = summary(tmp_path)
    assert 0 <= float(row['eval_attention_top1']) <= 100
    assert float(row['train_loss']) == pytest.approx(sum(loss.item() for _, _, loss in losses) / 4, rel=1e-4)


@pytest.mark.parametrize('scripts', BOTH)
def test_trains_faithful_maps(train, tmp_path, scripts):
    flags = ['--map-loss', 'masked', '--map-loss-weights', 'consistency=0.1', '--hard-attention', 0.3]
    assert train(*flags, scripts=scripts) == 0
    (row,) = summary(tmp_path)
    assert 2.5 < float(row['train_loss']) < 20 and 0 <= float(row['eval_top1']) <= 100  # ln 3 three times, and more
    model = timm_abn.load_model('abn', checkpoint=tmp_path / 'run' / 'last.pth.tar')
    maps = model.explain(torch.randn(2, 3, 32, 32)).attention_map
    assert model.config.mechanism == 'product' and ((maps == 0).float().mean(dim=(2, 3)) >= 0.5).all()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--map-background', 'blur'], '--map-background belongs to --map-loss: pass --map-loss masked as well.'),
        (['--map-loss', 'masked', '--map-loss-weights', 'size=1'], "--map-loss-weights has no 'size'; its terms:"),
        (['--map-loss', 'masked', '--map-loss-weights', 'area=-1'], "weight 'area' of the map loss must be a finite"),
        (['--hard-attention', 2], 'hard_attention must be the share of the map to keep, in (0, 1], got 2.0'),
    ],
)
def test_settings_of_maps_that_cannot_be(train, tmp_path, capfd, flags, message):
    assert train(*flags) == 2
    error = capfd.readouterr().err.strip().splitlines()
    assert message in error[-1] and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('scripts', BOTH)
def test_validates_what_was_trained(launch, train, image_folder, tmp_path, capfd, scripts):
    assert train(scripts=scripts) == 0
    flags = ['--data-dir', image_folder, '--num-classes', 3, '--img-size', 32]
    flags += ['--device', 'cpu', '--workers', '0'] if scripts != STAND_IN else []
    checkpoint = ['--checkpoint', tmp_path / 'run' / 'last.pth.tar']
    assert launch('validate.py', *MODEL, *flags, *checkpoint, scripts=scripts) == 0
    top1 = float(summary(tmp_path)[0]['eval_top1'])
    assert f'"top1": {top1:.4f}'.rstrip('0').rstrip('.') in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_device_modules_of_timm_need_no_launcher(image_folder, tmp_path, scripts):
    data = ['--data-dir', image_folder, '--output', tmp_path]
    finish(start(scripts / 'train.py', '--device-modules', 'timm_abn.task', *MODEL, *SMALL, *data))
    (row,) = summary(tmp_path)
    assert float(row['train_loss']) > 1.6 and 'eval_attention_top1' in row  # ln 3 for each branch


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_two_processes(image_folder, tmp_path, scripts):
    flags = ['--data-dir', image_folder, '--output', tmp_path, '--timm-scripts', scripts, '--model-ema']
    output = finish(start_training(*MODEL, *SMALL, *flags, processes=2))
    (row,) = summary(tmp_path)
    assert 1.6 < float(row['train_loss']) < 10 and 'eval_attention_top1' in row
    # by one process; scripts of 1.0.31 log the metrics of both branches themselves
    assert len(re.findall('Validation of epoch 0, both branches|Test \\(EMA\\): loss.*attention_top1', output)) == 1


def test_other_models_train_as_in_timm(train, losses, tmp_path, capfd):
    assert train(model=['--model', 'test_resnet']) == 0 and not losses
    assert capfd.readouterr().err.count('is not an Attention Branch Network: it trains as in timm') == 1
    assert 'eval_attention_top1' not in summary(tmp_path)[0]


def test_attention_loss_weight(train, losses, tmp_path):
    config = tmp_path / 'recipe.yaml'
    config.write_text('attention_loss_weight: 0.5\nlr: 0.07\nsmoothing: 0.0\ncrop_mode: squash\n')
    for arguments, weight in ((['--config', config], 0.5), (['-c', config, '--attention-loss-weight', 0.25], 0.25)):
        losses.clear()
        assert train(*arguments) == 0
        (logits, attention_logits), target, loss = losses[-1]
        expected = F.cross_entropy(logits, target) + weight * F.cross_entropy(attention_logits, target)
        torch.testing.assert_close(loss, expected)
        # keys of ours do not reach the script of timm, and what is said goes before the config
        args = vars(torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['args'])
        assert 'attention_loss_weight' not in args and args['lr'] == 0.05


def test_crop_mode_is_that_of_the_validation_images(train, monkeypatch):
    made = []
    create = timm.data.create_loader
    monkeypatch.setattr(
        timm.data, 'create_loader', lambda *args, **kwargs: made.append(create(*args, **kwargs)) or made[-1]
    )
    assert train('--crop-mode', 'squash') == 0
    train, validation = (loader.dataset.transform.transforms[1:] for loader in made)  # the first makes them RGB
    assert isinstance(validation[0].size, tuple)  # center would be one number, the shorter side
    assert 'RandomResizedCrop' in type(train[0]).__name__


def test_wrapper_and_checkout_hide_nothing(launch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkout = tmp_path / 'checkout'
    (checkout / 'timm').mkdir(parents=True)  # a checkout of timm holds timm itself
    (checkout / 'timm' / 'version.py').write_text("__version__ = '1.0.31'\n")
    (checkout / 'train.py').write_text('import sys\nopen("path", "w").write("\\n".join(sys.path))\n')
    sys.path.insert(0, str(ROOT / 'train_wrappers'))
    assert launch('train.py', '--model', 'abn_resnet50', scripts=checkout) == 0
    path = Path('path').read_text().splitlines()
    assert path[-1] == str(checkout) and str(ROOT / 'train_wrappers') not in path


def test_help_of_both(launch, capfd):
    with pytest.raises(SystemExit) as stopped:
        launch('train.py', '--help')
    output = capfd.readouterr().out
    assert stopped.value.code == 0 and '--attention-loss-weight' in output and '--decay-milestones' in output


OURS = ('--model', 'abn_resnet50')
SEVERAL = 'has several attributes per image: pass --task multilabel'
OTHER_TEACHER = ('--kd-model-name', 'resnet50', '--kd-distill-type', 'feature')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--model', 'abn_resnet51'], '--model abn_resnet51 is not known: did you mean abn_resnet'),
        (['--model', 'attached'], 'timm-abn attach trains attached networks.'),
        ([*OURS, '--torchscript'], '--torchscript cannot train'),
        ([*OURS, '--naflex-loader'], '--naflex-loader feeds patches'),
        ([*OURS, *OTHER_TEACHER], '--kd-distill-type feature leaves out'),
        ([*OURS, '--attention-loss-weight', '-1'], 'attention_loss_weight must be a finite number'),
        ([*OURS, '--config', 'nowhere.yaml'], '--config nowhere.yaml cannot be read'),
        ([*OURS, '--data-dir', 'nowhere'], '--data-dir nowhere does not exist'),
        (OURS, '--data-dir is missing'),
        ([*OURS, '--dataset', 'celeba'], SEVERAL),
        ([*OURS, '--model-kwargs', 'multi_task=True'], SEVERAL),
        ([*OURS, '--timm-scripts', 'x'], "--timm-scripts is 'x', where there is no train.py"),
    ],
)
def test_what_cannot_hold_is_one_line(launch, capfd, arguments, message):
    assert launch('train.py', *arguments, scripts=None if '--timm-scripts' in arguments else STAND_IN) == 2
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if 'error' in line]
    assert len(lines) == 1 and lines[0].startswith('timm-abn-train: error: ') and message in lines[0]
    assert 'Traceback' not in error


@pytest.mark.parametrize(
    'config, message',
    [
        ('a: [', 'is not YAML'),
        ('model: abn_resnet50\nmodel_kwargs: product', 'model_kwargs must hold "key: value" lines, got \'product\''),
        ('just words', 'must hold "flag: value" lines'),
        ('model: abn_resnet50\ntorchscript: true', '--torchscript cannot train'),
        ('by_model: 3', 'recipe.yaml must hold settings under patterns of model names'),
        ('by_model: {a: 3}', 'by_model in '),
        ('map_loss: some', "map_loss must be one of masked, got 'some'"),
        ('crop_mode: sqash', "crop_mode must be one of center, squash, border, got 'sqash'"),
        ('attention_loss_weight: much', "must be a finite number of 0 or more, got 'much'"),
    ],
)
def test_bad_config_is_one_line(launch, capfd, tmp_path, config, message):
    path = tmp_path / 'recipe.yaml'
    path.write_text(config)
    assert launch('train.py', '--config', path) == 2
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1 and message in error


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
@pytest.mark.parametrize(
    'flags, said',
    [
        (['--task', 'multilabel'], '--task multilabel'),
        (['--dataset', 'CelebA'], '--dataset celeba'),
        (['--model-kwargs', 'multi_task=True'], '--model-kwargs multi_task=True'),
    ],
)
def test_scripts_without_multi_label_training_are_refused(launch, capfd, tmp_path, script, flags, said):
    (tmp_path / script).write_text('raise AssertionError("the script ran")')
    (tmp_path / 'train.py').touch()
    assert launch(script, '--model', 'abn_resnet50', *flags, scripts=tmp_path) == 2
    message = f'error: {said} needs scripts of timm with --task, which {tmp_path / script} lacks; use those of'
    assert message in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    'model, kwargs, message',
    [
        ('abn_resnet50', 'task_chunk_size=0 multi_task=True', 'task_chunk_size must be a whole number from 1 to'),
        ('abn_resnet50', 'attention_map=x', "attention_map must be one of 'sigmoid'"),
        ('abn_resnet50', 'mechanism=x', "mechanism must be one of 'residual'"),
        ('abn_resnet50', 'multi_task=yes', "multi_task must be True or False, got 'yes'"),
        ('abn_resnet50', 'split=nowhere', "ResNet has no module 'nowhere'; valid splits: 0 (act1)"),
        ('abn', 'backbone=nosuch', "Unknown backbone 'nosuch'"),
        ('cam_resnet50', 'multi_task=True', "unexpected keyword argument 'multi_task'"),
        ('abn_resnet50', 'split', '--model-kwargs must be followed by KEY=VALUE'),
    ],
)
@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_model_arguments_that_cannot_hold_are_one_line(launch, capfd, tmp_path, script, model, kwargs, message):
    for name in ('train.py', script):
        (tmp_path / name).write_text('raise AssertionError("the script ran")')
    flags = ['--task', 'multilabel', '--num-classes', 3]
    assert launch(script, '--model', model, '--model-kwargs', *kwargs.split(), *flags, scripts=tmp_path) == 2
    lines = capfd.readouterr().err.splitlines()[1:]  # the first: these scripts do not say of which timm they are
    assert len(lines) == 1 and lines[0].startswith(f'timm-abn-{script[:-3]}: error: ') and message in lines[0]


def test_number_of_classes_and_of_channels_are_tried(launch, monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr('timm_abn.training.models.create_model', lambda *arguments: tried.append(arguments))
    (tmp_path / 'train.py').touch()
    (tmp_path / 'validate.py').touch()
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('model: abn_resnet18\nmodel_kwargs: {mechanism: product}\ninput_size: [2, 32, 32]\n')
    assert launch('train.py', '-c', recipe, '--num-classes', 3, scripts=tmp_path) == 0
    expected = dict(num_classes=3, in_chans=2, mechanism='product', device=torch.device('meta'))
    assert tried == [('abn_resnet18', expected)]
    for flags, code in (('test_resnet', 0), ('abn --model-kwargs backbone=hf-hub:a/b', 0), ('local-dir:none', 2)):
        assert launch('validate.py', '--pretrained-path', 'x', '--model', *flags.split(), scripts=tmp_path) == code
    assert len(tried) == 1


def test_nothing_is_read_before_a_refusal(launch, monkeypatch):
    def create_dataset(*args, **kwargs):
        raise AssertionError('data was read')

    monkeypatch.setattr(timm.data, 'create_dataset', create_dataset)
    assert launch('train.py', '--model', 'abn_resnet50', '--torchscript', '--data-dir', '.') == 2


FLAGS = {
    'ema': ['--model-ema', '--model-ema-decay', '0.9'],
    'amp bfloat16': ['--amp', '--amp-dtype', 'bfloat16'],
    'amp float16': ['--amp'],
    'bfloat16': ['--model-dtype', 'bfloat16'],
    'accumulation': ['--grad-accum-steps', '3'],
    'mixup and cutmix': ['--mixup', '0.2', '--cutmix', '1.0'],
    'mixup without prefetcher': ['--mixup', '0.2', '--no-prefetcher'],
    'binary cross entropy': ['--bce-loss'],
    'jsd': ['--aug-splits', '3', '--jsd-loss', '--aa', 'rand-m9-mstd0.5'],
    'split bn': ['--aug-splits', '2', '--split-bn', '--aa', 'rand-m9'],
    'channels last': ['--channels-last'],
    'checkpointing': ['--grad-checkpointing'],
    'compile': ['--torchcompile', 'aot_eager', '--model-ema'],
    'clip': ['--clip-grad', '1.0'],
    'agc': ['--clip-grad', '0.02', '--clip-mode', 'agc'],
    'layer decay': ['--layer-decay', '0.7', '--opt', 'adamw'],
    'drop path': ['--drop', '0.1', '--drop-path', '0.1'],
    'head init': ['--head-init-scale', '0.5', '--head-init-bias', '-1'],
    'image sizes': ['--train-img-sizes', '24', '32'],
    'multistep': ['--sched', 'multistep', '--decay-milestones', '2', '3'],
    'crops': ['--train-crop-mode', 'pad'],
    'logit distillation': (
        '--kd-model-name abn_resnet20_cifar.fashion_mnist --model abn_resnet20_cifar.fashion_mnist --model-kwargs '
        '--in-chans 1'
    ).split(),
    'random erasing': ['--reprob', '0.3', '--no-aug'],
}


@needs_timm_scripts
@pytest.mark.parametrize('flags', FLAGS.values(), ids=FLAGS)
def test_flags_of_timm(train, losses, tmp_path, flags):
    """Each works, and the first loss is that of both branches."""
    batch = ['--batch-size', '4'] if '--train-img-sizes' in flags else []
    assert train(*flags, *batch, '--epochs', '2', scripts=TIMM) == 0
    (logits, attention_logits), _, loss = losses[0]
    assert logits.shape == attention_logits.shape and (logits != attention_logits).any() and torch.isfinite(loss)
    rows = summary(tmp_path)
    assert len(rows) == 2 and all(0 <= float(row['eval_attention_top1']) <= 100 for row in rows)


@pytest.mark.parametrize(
    'script, arguments, message',
    [
        ('validate.py', ['abn_resnet50'], '{none} abn_resnet50: ... Or pass --checkpoint FILE.'),
        ('onnx_export.py', ['abn_resnet20_cifar'], '{none} abn_resnet20_cifar: ... Or pass --check'),
        ('inference.py', ['abn_resnet50.x'], 'Invalid pretrained tag (x) for abn_resnet50'),
        ('train.py', ['abn_resnet50', '--pretrained'], '{none} abn_resnet50: ... Or leave out --pretrained.'),
    ],
)
def test_missing_weights_are_one_line(launch, capfd, script, arguments, message):
    assert launch(script, '--model', *arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    message = message.format(none='no weights are published for')
    assert len(lines) == 1 and all(part in lines[0] for part in message.split(' ... '))


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('validate.py', ['--checkpoint', 'weights.pth']),
        ('train.py', ['--pretrained', '--pretrained-path', 'weights.pth']),
    ],
)
def test_weights_of_a_file_are_enough(launch, tmp_path, monkeypatch, script, arguments):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model('abn_resnet18', num_classes=3).state_dict(), 'weights.pth')
    for name in ('train.py', script):
        (tmp_path / name).write_text('')
    assert launch(script, '--model', 'abn_resnet18', *arguments, scripts=tmp_path) == 0


@pytest.mark.parametrize(
    'module, kind, lines', [('training.errors', 'TrainingError', 0), ('data.reading', 'ImageError', 1)]
)
def test_only_what_one_process_meets_is_said_by_any(launch, capfd, monkeypatch, tmp_path, module, kind, lines):
    code = f'from timm_abn.{module} import {kind}\nraise {kind}("5.jpg is broken")'
    (tmp_path / 'train.py').write_text(code)
    for variable, value in dict(RANK='1', WORLD_SIZE='2', MASTER_ADDR='localhost', MASTER_PORT='1').items():
        monkeypatch.setenv(variable, value)
    assert launch('train.py', '--model', 'test_resnet', scripts=tmp_path) == 2
    assert capfd.readouterr().err.splitlines() == ['timm-abn-train: error: 5.jpg is broken'] * lines


@pytest.mark.parametrize('checkpoint', [False, True])
@pytest.mark.parametrize('address', [False, True])
def test_channels_come_from_the_configuration_of_the_weights(shown, tmp_path, address, checkpoint):
    model = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True)
    save_hub_folder(model, tmp_path / 'grey', card='')
    named = f'local-dir:{tmp_path / "grey"}' if address else 'abn_resnet20_cifar.fashion_mnist'
    weights = ['--checkpoint', tmp_path / 'grey' / 'model.safetensors'] if checkpoint else []
    arguments, _ = shown('--model', named, *weights, script='validate.py')
    assert arguments[arguments.index('--in-chans') + 1] == '1'
    arguments, _ = shown('--model', named, '--input-size', 3, 28, 28)  # what is said holds
    assert '--in-chans' not in arguments


def test_one_process_is_alone_whatever_is_left_in_the_environment(launch, capfd, monkeypatch, tmp_path):
    (tmp_path / 'train.py').write_text('import os; print({"RANK", "WORLD_SIZE"} & set(os.environ))')
    monkeypatch.setenv('RANK', '3')
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert launch('train.py', scripts=tmp_path) == 0
    assert 'set()' in capfd.readouterr().out
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert launch('train.py', scripts=tmp_path) == 2
    assert 'timm-abn-train: error: WORLD_SIZE is 2, but MASTER_ADDR' in capfd.readouterr().err
