"""Human masks through the launcher, end to end: with the stand-in for timm's scripts, and with timm's own."""

import re

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from timm_scripts import BOTH, MODEL, SMALL, TIMM, finish, needs_timm_scripts, start_training, summary

import timm_abn
from timm_abn.task import AttentionMaskLoss
from timm_abn.training.mask_loss import MASK_LOSSES

FINE = ('backbone=test_resnet', 'split=layer1')  # maps of 8 x 8 places
CELEBA = ('--dataset', 'celeba', '--task', 'multilabel', '--val-split', 'val', '--batch-size', 2)


@pytest.fixture(scope='module')
def marked(tmp_path_factory):
    """Squares of three colours on noise; a grey square, which tells nothing of the class, is marked in half of them."""
    root = tmp_path_factory.mktemp('marked')
    drawn = np.random.default_rng(0)
    for split, count in (('train', 16), ('validation', 4)):
        for label in range(3):
            for index in range(count):
                pixels = drawn.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                top, left = drawn.integers(2, 6, 2)
                pixels[top : top + 10, left : left + 10, label] += 150
                top, left = drawn.integers(16, 20, 2)
                pixels[top : top + 10, left : left + 10] += 120
                mask = np.zeros((32, 32), dtype=np.uint8)
                mask[top : top + 10, left : left + 10] = 255
                for folder, array in ((root / 'images', pixels), (root / 'masks', mask)):
                    path = folder / split / f'class{label}' / f'{index}.png'
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if folder.name == 'images' or index % 2 == 0 or split == 'validation':
                        Image.fromarray(array).save(path)
    return root


def flags(marked, folder, *more):
    data = ['--data-dir', marked / 'images', '--attention-mask-dir', marked / 'masks' / 'train']
    return [*MODEL, *SMALL, '--smoothing', 0, *data, '--output', folder, *more]


def energy(marked, folder):
    """Return the share of the maps of validation images that lies on the grey square."""
    model = timm_abn.load_model('abn', checkpoint=folder / 'run' / 'last.pth.tar')
    paths = sorted((marked / 'images' / 'validation').rglob('*.png'))
    transform = timm.data.create_transform((3, 32, 32), crop_pct=1.0)
    images = torch.stack([transform(Image.open(path)) for path in paths])
    masks = [marked / 'masks' / path.relative_to(marked / 'images') for path in paths]
    masks = torch.stack([torch.from_numpy(np.array(Image.open(path)) > 0) for path in masks])[:, None]
    return 1 - AttentionMaskLoss('energy')(model.explain(images).attention_map, masks).item()


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize('kind', MASK_LOSSES)
def test_maps_move_to_the_masks(launch, marked, tmp_path, scripts, kind, capfd):
    few = ['--epochs', 8, '--train-crop-mode', 'pad', '--opt', 'adamw', '--lr', 1e-2, '--model-kwargs', *FINE]
    found, weights = {}, (0, 20 if kind == 'l1' else 3)  # the slope of l1 is small
    for weight in weights:
        folder = tmp_path / str(weight)
        loss = ['--attention-mask-loss', kind, '--attention-mask-weight', weight]
        assert launch('train.py', *flags(marked, folder, *few, *loss), scripts=scripts) == 0
        assert 'masks: 24 of 48 training images' in capfd.readouterr().err
        found[weight] = energy(marked, folder)
    assert found[weights[1]] > 1.5 * found[0], found


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize('more', [['--no-prefetcher'], ['--workers', 2]], ids=['no prefetcher', 'workers'])
def test_whatever_loader(launch, marked, tmp_path, scripts, more):
    if 'stand_in' in str(scripts) and '--no-prefetcher' in more:
        pytest.skip('the stand-in always has a prefetcher')
    assert launch('train.py', *flags(marked, tmp_path / 'a'), scripts=scripts) == 0
    assert launch('train.py', *flags(marked, tmp_path / 'b', *more), scripts=scripts) == 0
    first, second = (float(summary(tmp_path / name)[0]['train_loss']) for name in 'ab')
    assert first == pytest.approx(second, rel=1e-3) and first > 2 * np.log(3) * 0.8


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_resumed_run_ends_like_another(launch, marked, tmp_path, scripts):
    run = ['--epochs', 2, '--attention-mask-share', 0.5, '--model-ema']
    assert launch('train.py', *flags(marked, tmp_path / 'whole', *run), scripts=scripts) == 0
    resume = ['--resume', tmp_path / 'whole' / 'run' / 'checkpoint-0.pth.tar']
    assert launch('train.py', *flags(marked, tmp_path / 'resumed', *run, *resume), scripts=scripts) == 0
    whole, resumed = (
        torch.load(tmp_path / name / 'run' / 'last.pth.tar', weights_only=False) for name in ('whole', 'resumed')
    )
    for weights in ('state_dict', 'state_dict_ema'):
        for name, tensor in whole[weights].items():
            assert torch.equal(tensor, resumed[weights][name]), f'{name} of {weights}'


def test_a_mask_an_attribute(launch, celeba, tmp_path, capfd):
    mask = np.zeros((218, 178), dtype=np.uint8)
    mask[100:150, 50:120] = 1
    for name in ('Smiling/000001.png', 'Male/000001.png', 'Smiling/000005.png'):
        (tmp_path / 'masks' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / 'masks' / name)
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(
        f'attention_mask_dir: {tmp_path / "masks"}\nattention_mask_loss: l1\nattention_mask_weight: 2.0\n'
    )
    run = ['--data-dir', celeba, '--output', tmp_path, '--model-kwargs', 'backbone=test_resnet', 'multi_task=True']
    assert launch('train.py', *MODEL, *SMALL, *CELEBA, *run, '-c', recipe) == 0
    assert 'masks: 2 of 3 training images' in capfd.readouterr().err
    (row,) = summary(tmp_path)
    assert float(row['train_loss']) > 1 and 'eval_attention_accuracy' in row


def test_faithful_and_hard_maps_with_masks(launch, marked, tmp_path):
    more = ['--map-loss', 'masked', '--hard-attention', 0.3]
    assert launch('train.py', *flags(marked, tmp_path, *more)) == 0
    assert 2.5 < float(summary(tmp_path)[0]['train_loss']) < 20


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--aa', 'rand-m9'], '--aa rotates and shears images in ways that a mask cannot follow: leave it out'),
        (['--mixup', 0.2], '--mixup mixes images'),
        (['--dataset', 'torch/fashion_mnist'], 'names of image files, which --dataset torch/fashion_mnist does not'),
        (['--attention-mask-dir', 'nowhere'], '--attention-mask-dir nowhere does not exist'),
    ],
)
def test_what_cannot_be_is_one_line_before_data_is_read(launch, marked, tmp_path, capfd, monkeypatch, more, message):
    def create_dataset(*args, **kwargs):
        raise AssertionError('data was read')

    monkeypatch.setattr(timm.data, 'create_dataset', create_dataset)
    assert launch('train.py', *flags(marked, tmp_path, *more)) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('timm-abn-train: error: ') and message in lines[0]


def test_masks_of_another_data_set_are_one_line(launch, marked, tmp_path, capfd):
    assert launch('train.py', *flags(marked, tmp_path, '--attention-mask-dir', tmp_path)) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith('timm-abn-train: error: ') and 'expected files such as class0/0.png in it' in error


FLAGS = {
    'bfloat16': ['--amp', '--amp-dtype', 'bfloat16'],
    'float16': ['--amp'],
    'accumulation': ['--grad-accum-steps', '3'],
    'binary cross entropy': ['--bce-loss'],
    'channels last': ['--channels-last'],
    'compile': ['--torchcompile', 'aot_eager', '--model-ema'],
    'erasing, and no augmentation': ['--reprob', '0.5', '--no-aug'],
    'colours': ['--color-jitter-prob', '0.5', '--grayscale-prob', '0.5', '--gaussian-blur-prob', '0.5'],
    'multi epochs loader': ['--use-multi-epochs-loader'],
    'rkrc': ['--train-crop-mode', 'rkrc'],
}


@needs_timm_scripts
@pytest.mark.parametrize('more', FLAGS.values(), ids=FLAGS)
def test_flags_of_timm(launch, marked, tmp_path, more):
    assert launch('train.py', *flags(marked, tmp_path, *more), scripts=TIMM) == 0
    (row,) = summary(tmp_path)
    assert 1 < float(row['train_loss']) < 20 and 0 <= float(row['eval_attention_top1']) <= 100


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_two_processes(marked, tmp_path, scripts):
    more = ['--attention-mask-share', '0.1', '--model-ema', '--timm-scripts', scripts]
    output = finish(start_training(*flags(marked, tmp_path, *more), processes=2))
    (row,) = summary(tmp_path)
    assert 1.6 < float(row['train_loss']) < 10
    assert len(re.findall('masks: 2 of 48 training images, a share of 0.1 of 24', output)) == 1
