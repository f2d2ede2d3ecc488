"""The notebook in examples/ runs from top to bottom, offline, on what the package brings."""

import json

import pytest
from PIL import Image
from timm_scripts import ROOT

NOTEBOOK = ROOT / 'examples' / 'explain.ipynb'


@pytest.fixture(scope='module')
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    assert notebook['nbformat'] == 4
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def test_outputs_are_kept(cells):
    assert [cell['execution_count'] for cell in cells] == [*range(1, len(cells) + 1)]
    kinds = [output['output_type'] for cell in cells for output in cell['outputs']]
    assert kinds.count('display_data') >= 5 and kinds.count('stream') >= 4
    assert NOTEBOOK.stat().st_size < 500_000


@pytest.mark.slow
def test_cells_run(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    namespace = {'__name__': 'notebook'}
    for index, cell in enumerate(cells):
        exec(compile(''.join(cell['source']), f'cell {index}', 'exec'), namespace)
    assert namespace['box'] == (32, 32, 480, 480)  # what the model saw of the real photo
    photo, overlay = namespace['photos'][0], namespace['overlays'][0]
    assert isinstance(overlay, Image.Image) and overlay.size == photo.size
    assert overlay.tobytes() != photo.tobytes()
    # the packaged weights depend on their map
    assert namespace['result']['uniform'].has_effect
    said = capsys.readouterr().out
    assert 'tripod' in said and 'ankle boot' in said and 'without the left half' in said
    assert not list(tmp_path.iterdir())
