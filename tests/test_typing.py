"""A user's code passes mypy --strict: the package is typed, and says so."""

import subprocess
import sys

import pytest

PROGRAM = """
import timm
import torch
from typing_extensions import assert_type

import timm_abn


def explain(network: timm_abn.AttentionBranchNet, images: torch.Tensor) -> timm_abn.Explanation:
    explanation = network.eval().explain(images)
    assert_type(explanation.logits, torch.Tensor)
    assert_type(explanation.attention_map, torch.Tensor)
    assert_type(explanation.attention_logits, torch.Tensor | None)
    assert_type(explanation.top_k(3), tuple[torch.Tensor, torch.Tensor])
    return explanation[0]


model = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True)
assert isinstance(model, timm_abn.AttentionBranchNet)
try:
    explain(model, torch.rand(1, 1, 28, 28))
    feature_extractor, perception_branch = timm_abn.split_backbone(timm.create_model('test_resnet'), 'layer2')
    print(timm_abn.__version__, timm_abn.class_names(model)[0].upper())
except timm_abn.SplitError as error:
    print(str(error))

# --strict says where a comment ignores nothing: these are caught
explain(model)  # type: ignore[call-arg]
timm_abn.AttentionBranchNet(3)  # type: ignore[arg-type]
"""


@pytest.mark.slow
def test_mypy_of_a_program(tmp_path):
    pytest.importorskip('mypy')
    (tmp_path / 'program.py').write_text(PROGRAM)
    command = [sys.executable, '-m', 'mypy', '--strict', '--cache-dir', str(tmp_path / 'cache'), 'program.py']
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
