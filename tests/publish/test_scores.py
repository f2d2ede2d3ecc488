"""Scores of explanations on a model card: those of the evaluation, and of these weights alone."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_abn

from timm_abn import Sample, TimmAbnError, evaluate
from timm_abn.publish.scores import score_tables
from timm_abn_cli import main


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    model, folder = tiny_abn('test_resnet'), tmp_path_factory.mktemp('evaluation')
    generator = torch.Generator().manual_seed(0)
    samples = [Sample(f'{index}', torch.randn(3, 32, 32, generator=generator), label=index) for index in range(4)]
    evaluation = evaluate(model, samples, ['attention', 'centre'], folder, steps=4)
    return model, evaluation, folder / 'summary.json'


def test_tables(evaluated):
    model, evaluation, path = evaluated
    lines = score_tables(path, model).splitlines()
    assert lines[0].startswith('4 images, 4 steps; mean and 95 % bootstrap interval.')
    scores = evaluation.scores['attention']
    assert lines[4] == f'| `attention` | {" | ".join(map(str, scores.values()))} |'
    change = evaluation.reliance['inverse']
    assert f'| 1 - map | {change["accuracy_change"]} | {change["changed_predictions"]} |' in lines


def test_scores_are_those_of_the_weights(evaluated, tmp_path, capsys):
    model, evaluation, path = evaluated
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / 'own.safetensors')
    options = ['--repo', 'me/tiny', '--model', 'abn', '--model-kwargs', 'backbone=test_resnet', '--dry-run', '--scores']
    arguments = [*options, str(path), '--out', str(tmp_path / 'out')]
    assert main(['publish', str(tmp_path / 'own.safetensors'), *arguments]) == 0
    assert str(evaluation.scores['attention']['deletion']) in (tmp_path / 'out' / 'README.md').read_text()
    other = tiny_abn('test_resnet')
    torch.nn.init.ones_(other.get_classifier().weight)
    with pytest.raises(TimmAbnError, match='summary.json holds the scores of other weights'):
        score_tables(path, other)
    with pytest.raises(TimmAbnError, match='holds the scores of another network'):
        score_tables(path, tiny_abn('test_resnet', mechanism='product'))
    with pytest.raises(TimmAbnError, match='holds the scores of images prepared otherwise'):
        score_tables(path, model, dict(mean=[0.4] * 3))


@pytest.mark.parametrize('content', ['nothing', '{}', '[]', '{"settings": {}, "scores": {}, "reliance": {}}'])
def test_other_files_are_refused(evaluated, tmp_path, content):
    (tmp_path / 'summary.json').write_text(content)
    with pytest.raises(TimmAbnError, match='is not the summary.json of timm-abn evaluate: '):
        score_tables(tmp_path / 'summary.json', evaluated[0])
    assert json.loads(evaluated[2].read_text())['settings']['images'] == 4
