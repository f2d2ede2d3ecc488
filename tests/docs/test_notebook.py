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


def test_nothing_of_a_run_is_kept(cells):
    assert not any(cell['outputs'] or cell['execution_count'] for cell in cells)


@pytest.mark.slow
def test_cells_run(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    namespace = {'__name__': 'notebook'}
    for index, cell in enumerate(cells):
        exec(compile(''.join(cell['source']), f'cell {index}', 'exec'), namespace)
    photo, overlay = namespace['photos'][0], namespace['overlays'][0]
    assert isinstance(overlay, Image.Image) and overlay.size == photo.size
    assert overlay.tobytes() != photo.tobytes()
    # the packaged weights depend on their map
    assert namespace['result']['uniform'].has_effect
    said = capsys.readouterr().out
    assert 'ankle boot' in said and 'without the left half' in said
    assert not list(tmp_path.iterdir())
