"""timm-abn attach of timm's own weights: the checkpoint holds the refinement alone, and says which they are."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save

from timm_abn import CheckpointError, load_model
from timm_abn_cli import main

NAME = 'test_resnet.r160_in1k'
REPOSITORY = f'timm/{NAME}'


def publish(hub, seed):
    """Let the Hub have other weights of the backbone, and return it."""
    torch.manual_seed(seed)
    backbone = timm.create_model('test_resnet').eval()
    hub.add(REPOSITORY, {'model.safetensors': save(backbone.state_dict())})
    return backbone


@pytest.fixture
def backbone(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3)).astype(np.uint8)
    (tmp_path / 'photos').mkdir()
    for index, photo in enumerate(pixels):
        Image.fromarray(photo).save(tmp_path / 'photos' / f'{index}.png')
    return publish(hub, 0)


def attach(*arguments):
    fixed = ['attach', '--model', 'test_resnet', '--data-dir', 'photos', '--out', 'out']
    return main([*fixed, '--batch-size', '2', '--steps', '1', '--img-size', '32', '--device', 'cpu', *arguments])


def test_the_refinement_alone_is_enough(backbone):
    assert attach() == 0
    checkpoint = torch.load('out/last.pth.tar', weights_only=False)
    assert {name.partition('.')[0] for name in checkpoint['state_dict']} == {'refinement'}
    assert checkpoint['args'].model_kwargs['backbone'] == NAME and len(checkpoint['args'].backbone_sha256) == 64
    images = torch.randn(2, 3, 160, 160)
    model = load_model('attached', 'out/last.pth.tar')
    with torch.no_grad():
        assert torch.equal(model(images), backbone(images))
    saved = checkpoint['state_dict']['refinement.from_cut.weight']
    assert torch.equal(model.refinement.from_cut.weight, saved) and Path('out/last.pth.tar').stat().st_size < 1.5e6
    assert attach('--resume') == 0  # nothing is left to do
    published = ['publish', 'out/last.pth.tar', '--repo', 'me/attached', '--dry-run', '--out', 'hub']
    assert main(published) == 0
    again = timm.create_model('local-dir:hub', pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(images), backbone(images))
    assert torch.equal(again.explain(images).attention_map, model.explain(images).attention_map)
    assert main(['explain', 'photos', '--model', 'attached', '--checkpoint', 'out/last.pth.tar', '--out', 'shown']) == 0


def test_other_weights_of_the_same_name_are_refused(backbone, hub, monkeypatch, tmp_path):
    assert attach() == 0
    publish(hub, 1)
    with pytest.raises(
        CheckpointError, match='was trained for other weights of test_resnet: their SHA-256 starts with '
    ):
        load_model('attached', 'out/last.pth.tar')


def test_a_new_classifier_stays_in_the_checkpoint(backbone):
    assert attach('--model-kwargs', 'num_classes=3') == 0
    saved = torch.load('out/last.pth.tar', weights_only=False)['state_dict']
    model = load_model('attached', 'out/last.pth.tar')
    assert model.num_classes == 3 and torch.equal(model.backbone.fc.weight, saved['backbone.fc.weight'])


def test_a_path_in_a_checkpoint_is_not_read(backbone):
    assert attach() == 0
    checkpoint = torch.load('out/last.pth.tar', weights_only=False)
    checkpoint['args'].model_kwargs['pretrained_backbone'] = 'secret.pth'
    torch.save(checkpoint, 'other.pth.tar')
    with pytest.raises(CheckpointError):  # neither weights of a backbone in it, nor any that it may name
        load_model('attached', 'other.pth.tar')
