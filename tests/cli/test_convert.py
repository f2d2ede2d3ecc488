"""The command ``timm-abn convert``."""

import json

import pytest
import timm
import torch
from command_line import refusal
from golden_fill import fill_input, fill_state_dict, load_golden
from huggingface_hub import ModelCard
from payload import Payload

from timm_abn.checkpoint_files import CheckpointError
from timm_abn.models.official_checkpoints import convert_official_checkpoint
from timm_abn_cli import main


@pytest.fixture
def official_file(tmp_path):
    """Return a function that writes a file as the authors' training script does, and returns its path and weights."""

    def write(golden_name, **save_kwargs):
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in fill_state_dict(load_golden(golden_name)['state_dict']).items()
        }
        checkpoint = dict(
            epoch=90,
            acc=torch.tensor(71.25),
            best_acc=torch.tensor(72.5),
            optimizer=dict(state={}, param_groups=[]),
            state_dict={f'module.{name}': tensor for name, tensor in weights.items() if 'num_batches' not in name},
        )
        path = tmp_path / 'model_best.pth.tar'
        torch.save(checkpoint, path, **save_kwargs)
        return path, weights

    return write


@pytest.mark.parametrize(
    ('golden_name', 'model_name', 'options'),
    [
        ('cifar100_resnet20', 'abn_resnet20_cifar', dict(_use_new_zipfile_serialization=False)),
        pytest.param('cifar100_densenet100_12', 'abn_densenet100_12_cifar', {}, marks=pytest.mark.slow),
        pytest.param('imagenet_se_resnet18', 'abn_seresnet18', {}, marks=pytest.mark.slow),
    ],
)
def test_folder_gives_the_authors_numbers(golden_name, model_name, options, official_file, tmp_path, capsys):
    path, weights = official_file(golden_name, **options)
    folder = tmp_path / 'weights' / 'converted'
    assert main(['convert', str(path), '--out', str(folder)]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert [file.name for file in folder.parent.iterdir()] == ['converted']
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1  # every user may read the weights
    output = capsys.readouterr().out
    assert f'Model: {model_name}\n' in output
    assert 'Top-1 accuracy (%), as recorded in the checkpoint: 72.50\n' in output

    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    expected = convert_official_checkpoint(weights, model_name).state_dict
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    golden = load_golden(golden_name)
    logits = model(fill_input(golden['input']['seed'], golden['input']['shape']).float())
    first = torch.tensor(golden['perception_logits']['first8'])
    torch.testing.assert_close(logits[:, :8], first, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_configuration_and_card(official_file, tmp_path):
    path, _ = official_file('imagenet_se_resnet18')
    folder = tmp_path / 'converted'
    assert main(['convert', str(path), '--model', 'abn_seresnet18', '--out', str(folder)]) == 0
    config = json.loads((folder / 'config.json').read_text())
    assert (config['architecture'], config['model_args']['attention_map']) == ('abn_seresnet18', 'sum_log')
    cfg = config['pretrained_cfg']
    assert (cfg['input_size'], cfg['crop_pct'], cfg['interpolation']) == ([3, 224, 224], 0.875, 'bilinear')
    assert cfg['license'] == 'unknown' and 'test_input_size' not in cfg
    card = ModelCard.load(folder / 'README.md')
    assert card.data.to_dict() == {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'license': 'unknown',
        'metrics': ['accuracy'],
        'tags': ['image-classification', 'timm', 'timm-abn', 'attention-branch-network', 'visual-explanation'],
    }
    for fact in (
        '| Backbone | `seresnet18` |',
        '| Attention map, mechanism | sum_log, residual |',
        '| Classes | 1000 |',
        '| Epochs, as recorded in the checkpoint | 90 |',
        f"create_model('local-dir:{folder}'",
    ):
        assert fact in card.text


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('none', (), 'there is no file'),
        ('bad', (), 'bad.pth is not a checkpoint, or is damaged: '),
        ('list', (), 'it holds a list'),
        ('hostile', (), 'is not a checkpoint, or is damaged: '),
        ('timm', (), "not from the authors' code: it has none of the names"),
        ('timm', ('--model', 'abn_resnet18'), 'not one of abn_resnet18: keys'),
        ('timm', ('--model', 'abn_resnet19'), "unknown model 'abn_resnet19': did you mean"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(name, options, message, tmp_path, capsys):
    (tmp_path / 'bad.pth').write_bytes(b'PK\x03\x04 not a checkpoint')
    torch.save([1, 2], tmp_path / 'list.pth')
    torch.save(dict(state_dict=Payload(tmp_path / 'payload-ran')), tmp_path / 'hostile.pth')
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'timm.pth')
    before = sorted(tmp_path.iterdir())
    command = ['convert', tmp_path / f'{name}.pth', '--out', tmp_path / 'new' / 'out', *options]
    assert message in refusal(capsys, *command)
    assert sorted(tmp_path.iterdir()) == before


def test_target_with_files_is_refused(official_file, tmp_path, capsys):
    path, _ = official_file('cifar100_resnet20')
    folder = tmp_path / 'out'
    folder.mkdir()
    assert main(['convert', str(path), '--out', str(folder)]) == 0  # an empty one is not
    assert f'{folder} is not empty' in refusal(capsys, 'convert', path, '--out', folder)
    assert f'{path} is a file' in refusal(capsys, 'convert', path, '--out', path)
    # a multi-task network alone may have another mechanism
    command = ['convert', path, '--out', tmp_path / 'new', '--mechanism', 'product']
    assert 'leave out --mechanism' in refusal(capsys, *command) and not (tmp_path / 'new').exists()


def test_failure_while_writing_leaves_nothing(official_file, tmp_path, monkeypatch, capsys):
    path, _ = official_file('cifar100_resnet20')

    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('timm_abn.publish.folder.save_for_hf', fail)
    assert 'No space left on device' in refusal(capsys, 'convert', path, '--out', tmp_path / 'new' / 'out')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_multi_task_checkpoint(tmp_path, capsys):
    golden = load_golden('multi_task/mtabn_v1tag10_resnet18_T5_218x178')
    weights = {f'module.{name}': tensor for name, tensor in fill_state_dict(golden['state_dict']).items()}
    torch.save(dict(epoch=10, model_state_dict=weights), tmp_path / 'celeba.model')
    command = ['convert', str(tmp_path / 'celeba.model'), '--out']
    assert main([*command, str(tmp_path / 'product')]) == 0
    assert 'Model: abn_resnet18\nClasses: 5\n' in capsys.readouterr().out
    assert main([*command, str(tmp_path / 'residual'), '--mechanism', 'residual']) == 0
    for mechanism in ('product', 'residual'):
        model = timm.create_model(f'local-dir:{tmp_path / mechanism}', pretrained=True).eval()
        assert (model.config.mechanism, model.config.attention_map) == (mechanism, 'raw')
    model = timm.create_model(f'local-dir:{tmp_path / "product"}', pretrained=True).eval()
    logits = model(fill_input(golden['input']['seed'], golden['input']['shape']).float())
    outputs = torch.tensor(golden['perception_logits']['values'])
    torch.testing.assert_close(logits, outputs[:, 1] - outputs[:, 0], rtol=0, atol=1e-5 * outputs.abs().max().item())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda weights: weights.pop('output_per.3.weight'), 'must hold output_per.0.weight, output_per.1.weight'),
        (lambda weights: weights.update({'output_per.3.bias': torch.zeros(1)}), 'all of one or all of two outputs'),
        (lambda weights: weights.pop('conv_att.weight'), 'keys'),
    ],
)
def test_damaged_multi_task_checkpoint(change, message):
    weights = fill_state_dict(load_golden('multi_task/mtabn_v1tag10_resnet18_T5_218x178')['state_dict'])
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        convert_official_checkpoint(weights, 'abn_resnet18')
