"""What timm-abn explain says beyond its overlays: ranges, labels, CSV; and several processes that share the images."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.distributed as dist
from command_line import rows_of, without_warnings, write_photos
from PIL import Image
from tiers import fast_and_slow
from tiny_models import tiny_attached, tiny_backbone

import timm_abn
from timm_abn.data.images import Preprocessing, draw_overlay
from timm_abn.data.reading import read_image
from timm_abn.publish.folder import save_hub_folder
from timm_abn_cli import main

ROOT = Path(__file__).parents[2]
MODEL = 'abn_resnet20_cifar'
CLASSES = ['ant', 'bee', 'no beard']
COLUMNS = ['image', 'label', 'class', 'probability', 'map_least', 'map_greatest', 'overlay']


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of seven images, in folders of two classes, and a network of three."""
    monkeypatch.chdir(tmp_path)
    write_photos({f'data/{("Ant", "bee")[index % 2]}/{index}.png': (32, 32) for index in range(7)})
    Path('names.txt').write_text('\n'.join(CLASSES))
    torch.manual_seed(0)
    weights = timm.create_model(MODEL, num_classes=3).state_dict()
    safetensors.torch.save_file(weights, 'model.safetensors')
    safetensors.torch.save_file({key: tensor.float() * math.nan for key, tensor in weights.items()}, 'nan.safetensors')
    return tmp_path


def explain(*args):
    return main(['explain', 'data', '--model', MODEL, '--checkpoint', 'model.safetensors', *args])


@pytest.mark.parametrize('scale', ['own', 'common'])
def test_a_name_that_is_too_long_is_the_problem_of_that_photo_alone(images, capsys, scale):
    long = Path('data/bee', 'n' * 246 + '.png')
    Path('data/bee/1.png').rename(long)
    assert explain('--scale', scale) == 1
    out, err = capsys.readouterr()
    said = f'timm-abn: error: {long} has too long a name to name files after it.\n'
    assert without_warnings(err) == said and str(long) not in out
    assert len(list(Path('outputs').rglob('*.overlay.png'))) == 6


def test_levels_are_those_of_the_command_line(images, capsys):
    values = (np.arange(32 * 32, dtype=np.uint16) * 4).reshape(32, 32)
    Image.fromarray(values).save('data/12.png')
    Image.fromarray((values * (255 / 4095)).round().astype(np.uint8)).save('data/8.png')
    assert explain('--levels', '0', '4095', '--csv', 'out.csv', '--top-k', '1') == 0
    twelve, eight = ([row for row in rows_of('out.csv') if row['image'].endswith(f'/{n}.png')][0] for n in (12, 8))
    assert twelve['probability'] == eight['probability']
    assert explain('--levels', '4095', '0') == 2
    assert "levels must be two grey values (0 4095) or percentiles (1% 99%), got '4095 0'" in capsys.readouterr().err


def test_table_csv_and_labels(images, capsys):
    assert explain('--label-names', 'names.txt', '--csv', 'new/out.csv', '--top-k', '2', '--scale', 'common') == 0
    *table, shown_maps, scale, right = capsys.readouterr().out.splitlines()
    assert shown_maps == 'overlays: attention map, which gates'
    assert re.split('  +', table[0]) == ['image', 'label', 'class', 'probability', 'map range', 'overlay']
    rows = rows_of('new/out.csv')
    assert list(rows[0]) == COLUMNS and len(rows) == 7 * 2 == len(table) - 2
    names = ['Ant/0', 'Ant/2', 'Ant/4', 'Ant/6', 'bee/1', 'bee/3', 'bee/5']
    assert [row['image'] for row in rows[::2]] == [f'data/{name}.png' for name in names]
    assert [row['label'] for row in rows] == ['ant'] * 8 + ['bee'] * 6
    for first, second, shown, below in zip(rows[::2], rows[1::2], table[2::2], table[3::2], strict=True):
        assert {key for key in COLUMNS if first[key] != second[key]} == {'class', 'probability'}
        least, greatest = float(first['map_least']), float(first['map_greatest'])
        numbers = [f'{float(first["probability"]):.4f}', f'{least:.3g} to {greatest:.3g}']
        words = [first[name] for name in ('image', 'label', 'class')]
        assert re.split('  +', shown) == [*words, *numbers, first['overlay']]
        assert below.split()[-1] == f'{float(second["probability"]):.4f}'
    least, greatest = min(float(r['map_least']) for r in rows), max(float(r['map_greatest']) for r in rows)
    assert scale == f'range of all maps: {least:.3g} to {greatest:.3g}'
    number = sum(row['class'] == row['label'] for row in rows[::2])
    assert right == f'correct: {number} of 7 labelled images ({number / 7:.1%})'


def test_the_packaged_network_is_explained_by_its_class_map(tmp_path, capsys):
    model = timm_abn.load_model(name := 'abn_resnet20_cifar.fashion_mnist_faithful')
    path = sorted((Path(timm_abn.__file__).parent / 'samples').glob('*.png'))[0]
    assert main(['explain', str(path), '--model', name, '--out', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert 'overlays: class map of the predicted class; the attention map is what gates\n' in said
    image = read_image(path)
    x, box = Preprocessing(model)(image)
    explanation = model.explain(x[None])
    maps = explanation.class_maps[:, [int(explanation.logits.argmax())]]
    drawn = (maps - maps.mean()).clamp(min=0)
    with Image.open(tmp_path / f'{path.stem}.overlay.png') as overlay:
        np.testing.assert_allclose(
            np.asarray(overlay), np.asarray(draw_overlay(image, drawn / drawn.max(), box)), atol=1
        )


def test_without_labels_there_is_no_column_of_them(images, capsys):
    assert explain('--csv', 'out.csv', '--show', 'contrast', '--class', '2') == 0  # two folders, three classes
    lines = capsys.readouterr().out.splitlines()
    assert re.split('  +', lines[0]) == ['image', 'class', 'probability', 'map range', 'overlay']
    assert (
        lines[-1]
        == 'overlays: class map of class 2 minus the mean of the other classes; the attention map is what gates'
    )
    assert len(lines) == 2 + 7 * 3 + 1
    assert {row['label'] for row in rows_of('out.csv')} == {''}


def test_folders_are_counted_where_classes_have_no_names(images, capsys):
    Path('data/wasp').mkdir()
    Path('data/Ant/0.png').rename('data/wasp/0.png')
    assert explain('--csv', 'out.csv', '--top-k', '1') == 0
    assert [row['label'] for row in rows_of('out.csv')] == ['class 0'] * 3 + ['class 1'] * 3 + ['class 2']
    assert 'of 7 labelled images' in capsys.readouterr().out.splitlines()[-1]


def test_tasks_have_names_but_no_labels(images, capsys):
    network = timm.create_model(MODEL, num_classes=3, multi_task=True)
    safetensors.torch.save_file(network.state_dict(), 'model.safetensors')
    assert explain('--label-names', 'names.txt', '--csv', 'out.csv', '--show', 'class') == 0
    rows = rows_of('out.csv')
    assert len(rows) == 7 * 3 and {row['label'] for row in rows} == {''}
    assert {row['overlay'].split('.', 1)[1] for row in rows} == {f'{n}.overlay.png' for n in ('ant', 'bee', 'no_beard')}
    assert 'labelled' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--class', 'bee'], '--class selects the class for --show class or --show contrast; add one of them'),
        (['--show', 'contrast', '--colormap', 'magma'], 'has its own; leave out --colormap'),
        (['--label-names', 'none.txt'], 'there is no file none.txt'),
        (['--label-names', 'two.txt'], 'two.txt has 2 lines for 3 classes'),
        (['--csv', 'data'], 'data is a folder, not a file to write'),
        (['--csv', 'names.txt/out.csv'], 'names.txt is a file, not a folder to write into'),
        (['--out', 'names.txt', '--model', 'never_loaded'], 'names.txt is a file, not a folder to write into'),
        (['--checkpoint', 'nan.safetensors'], 'the model predicts NaN or infinity for 7 of 7 images'),
        (['--label-names', 'names.txt', '--show', 'class', '--class', 'beee'], "no class 'beee'; did you mean bee?"),
        (['--show', 'class', '--class', '3'], "there is no class '3'; the model has 'class 0' (0) to 'class 2' (2)"),
        (['--show', 'class', '--scale', 'absolute'], 'class maps have no bounds and so no absolute scale'),
        (['--scale', 'each'], "argument --scale: invalid choice: 'each'"),
    ],
)
def test_wrong_arguments(images, capsys, args, message):
    Path('two.txt').write_text('a\nb\n')
    assert explain(*args) == 2
    captured = capsys.readouterr()
    assert message in captured.err and without_warnings(captured.err).count('\n') == 1 and captured.out == ''
    assert not Path('outputs').exists() and not Path('out.csv').exists()


TWO = """
import os, sys
from timm_abn_cli import main
code = main(['explain', 'data', '--model', 'abn_resnet20_cifar', '--checkpoint', 'model.safetensors', *sys.argv[1:]])
assert code == (0 if int(os.environ['RANK']) else 1)  # a picture cannot be read
"""


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='PyTorch is built without gloo')
@pytest.mark.parametrize('shown', fast_and_slow(['attention', 'contrast'], [], ['contrast']))
def test_two_processes_say_what_one_says(images, capsys, shown):
    Path('data/bee/bad.png').write_bytes(b'')
    Path('two.py').write_text(TWO)
    args = ['--label-names', 'names.txt', '--scale', 'common', '--show', shown, '--batch-size', '2', '--map', 'npy']
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'two.py', *args]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(
        [*command, '--csv', 'two.csv', '--out', 'two'], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert explain(*args, '--csv', 'one.csv', '--out', 'one', '--device', 'cpu') == 1
    one, two = rows_of('one.csv'), rows_of('two.csv')
    assert len(one) == len(two) == 7 * 3
    for expected, found in zip(one, two, strict=True):
        for column in COLUMNS[:3]:
            assert found[column] == expected[column]
        for column in COLUMNS[3:-1]:
            assert float(found[column]) == pytest.approx(float(expected[column]), abs=1e-5, rel=1e-5)
    captured = capsys.readouterr()

    # numbers of four or three digits may fall to another side of a rounding
    def words(text):
        return re.sub(r'-?\d+(\.\d+)?(e-?\d+)?', '#', text).replace('two/', 'one/').split()

    assert words(done.stdout) == words(captured.out)
    assert [line for line in done.stderr.splitlines() if 'timm-abn' in line] == captured.err.splitlines()
    for path in Path('one').rglob('*.overlay.png'):
        with Image.open(path) as expected, Image.open(Path('two', *path.parts[1:])) as found:
            difference = np.asarray(expected).astype(int) - np.asarray(found)
            assert abs(difference).max() <= 1 and expected.text == found.text


def test_any_classifier_is_explained_and_published(images, capsys):
    network = tiny_backbone('test_resnet').eval()
    torch.save(network.state_dict(), 'plain.pth')
    command = ['explain', 'data/Ant/0.png', '--model', 'test_resnet', '--checkpoint', 'plain.pth', '--img-size', '64']
    assert main([*command, '--show', 'class', '--class', '2', '--map', 'npy', '--csv', 'table.csv']) == 0
    words = "overlays: evidence for class 2, from the model's own head; it does not gate"
    assert words in capsys.readouterr().out
    model = timm_abn.load_model('test_resnet', checkpoint='plain.pth', img_size=64)
    x, _ = Preprocessing(model)(read_image('data/Ant/0.png'))
    evidence = model.explain(x[None]).class_maps[0, 2]
    evidence = evidence - evidence.mean()
    row = rows_of('table.csv')[0]
    assert float(row['map_least']) == pytest.approx(evidence.min().item(), abs=1e-5)
    assert float(row['map_greatest']) == pytest.approx(evidence.max().item(), abs=1e-5)
    publish = ['publish', 'plain.pth', '--model', 'test_resnet', '--repo', 'me/plain', '--dry-run']
    assert main([*publish, '--img-size', '64']) == 0
    loaded = timm_abn.load_model('local-dir:plain')
    assert torch.equal(loaded.explain(x[None]).class_maps, model.explain(x[None]).class_maps)


def test_of_a_refined_network_the_map_of_the_class_that_is_asked_for_is_drawn(images):
    model = tiny_attached('test_resnet', refined=True)
    torch.nn.init.normal_(model.refinement.out.weight)
    save_hub_folder(model, 'hub', '# card')
    command = ['explain', 'data/Ant/0.png', '--model', 'local-dir:hub', '--show', 'attention', '--csv', 'table.csv']
    assert main([*command, '--class', '3']) == 0
    x, _ = Preprocessing(model)(read_image('data/Ant/0.png'))
    values = model.explain(x[None], torch.tensor([3])).attention_map
    row = rows_of('table.csv')[0]
    assert float(row['map_greatest']) == pytest.approx(values.max().item(), rel=1e-4)
    with Image.open(row['overlay']) as overlay:
        assert overlay.text['timm-abn colour range'].startswith('0 to ')
