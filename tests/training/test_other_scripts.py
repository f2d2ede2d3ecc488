"""``run.py``: timm's scripts besides ``train.py`` and ``validate.py``, run for Attention Branch Networks."""

import json
import sys

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm_scripts import MODEL, TIMM, needs_timm_scripts

from timm_abn.training.command import run


@needs_timm_scripts
def test_other_scripts_of_timm(launch, train, tmp_path, capfd):
    arguments = [*MODEL, '--img-size', 32, '--device', 'cpu', '--bench', 'inference', '--num-bench-iter', 10, '-b', 2]
    assert launch('benchmark.py', *arguments, scripts=TIMM) == 0
    assert 'infer_samples_per_sec' in capfd.readouterr().out
    assert train(scripts=TIMM) == 0
    folder = tmp_path / 'run'
    assert launch('avg_checkpoints.py', '--input', folder, '--output', tmp_path / 'average.pth', scripts=TIMM) == 0
    weights = torch.load(tmp_path / 'average.pth', weights_only=True)
    timm.create_model('abn', backbone='test_resnet', num_classes=3).load_state_dict(weights)
    arguments = ['--checkpoint', tmp_path / 'average.pth', '--output', tmp_path / 'clean.safetensors', '--no-hash']
    assert launch('clean_checkpoint.py', *arguments, '--safetensors', scripts=TIMM) == 0
    clean = load_file(tmp_path / 'clean.safetensors')
    assert clean.keys() == weights.keys() and all(torch.equal(clean[name], weights[name]) for name in weights)


@pytest.fixture
def small_abn(tmp_path):
    """A model of the paper, and the file of its weights."""
    torch.manual_seed(0)
    model = timm.create_model('abn_resnet20_cifar.untrained', num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    return model, ('--model', 'abn_resnet20_cifar', '--num-classes', 3, '--checkpoint', tmp_path / 'weights.pth')


@needs_timm_scripts
def test_inference_of_timm(launch, image_folder, small_abn, tmp_path):
    pytest.importorskip('pandas', reason="timm's inference.py needs pandas")
    model, arguments = small_abn
    folder = image_folder / 'validation'
    flags = ['--device', 'cpu', '--workers', 0, '--topk', 0, '--output-type', 'logit', '--no-console-results']
    results = ['--results-dir', tmp_path, '--results-file', 'logits', '--results-format', 'json', '--fullname']
    assert launch('inference.py', folder, *arguments, *flags, *results, scripts=TIMM) == 0
    rows = json.loads((tmp_path / 'logits.json').read_text())
    assert len(rows) == 9
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for name, row in rows.items():
        with Image.open(folder / name) as image, torch.no_grad():
            expected = model(transform(image.convert('RGB')).unsqueeze(0))[0]
        torch.testing.assert_close(torch.tensor(row['logit']), expected, rtol=0, atol=1e-4)


@needs_timm_scripts
@pytest.mark.parametrize('dynamo', [[], ['--dynamo']], ids=['torchscript', 'dynamo'])
def test_onnx_export_of_timm(launch, small_abn, tmp_path, dynamo):
    pytest.importorskip('onnxscript', reason='onnx is exported with the extra "onnx"')
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnx is run with the extra "onnx"')
    model, arguments = small_abn
    file = tmp_path / 'model.onnx'
    assert launch('onnx_export.py', file, *arguments, *dynamo, scripts=TIMM) == 0
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (logits,) = onnxruntime.InferenceSession(file).run(None, {'input0': images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=0, atol=1e-4)


def test_script_that_timm_has_not(launch, capfd):
    assert launch('evaluate.py') == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith('run.py evaluate: error: there is no evaluate.py in ')


@pytest.mark.parametrize('arguments, code', [([], 2), (['--help'], 0)])
def test_run_says_which_scripts_there_are(monkeypatch, capfd, arguments, code):
    monkeypatch.setattr(sys, 'argv', ['run.py', *arguments])
    assert run() == code
    assert 'benchmark.py, inference.py, onnx_export.py' in capfd.readouterr().err
