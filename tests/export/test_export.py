"""Graphs that were exported, run by onnxruntime and PyTorch, against the network."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from command_line import refusal
from tiers import fast_and_slow
from tiny_models import tiny_abn, tiny_attached, tiny_images

from timm_abn import AttachedNet, TimmAbnError, attach
from timm_abn.export.errors import ExportError
from timm_abn.export.graph import export_metadata, export_network, largest_difference
from timm_abn.export.writing import write_graph
from timm_abn.staging import staged_file
from timm_abn_cli import main
from timm_abn_cli.errors import CommandError

MODEL = 'abn_resnet20_cifar.fashion_mnist'

# batch, height and width that are not those of the example, and what makes the backbone smaller yet
OTHERS = {
    'test_resnet': ((3, 72, 100), {}),
    'test_convnext': ((1, 80, 112), dict(depths=(1, 1, 2, 1), map_scale=2, padding_mode='replicate')),
    'test_vit': ((5, 96, 64), dict(depth=2)),
}
ATTACHED = {
    'test_resnet': {},
    'test_convnext': dict(depths=(1, 1, 2, 1)),
    'test_vit': dict(depth=2),
    'test_vit2': dict(depth=2),
    'test_efficientnet': {},
    'refined': {},
}


@pytest.fixture(scope='module')
def onnxruntime():
    for name in ('onnx', 'onnxscript'):
        pytest.importorskip(name, reason='the extra "onnx" is not installed')
    return pytest.importorskip('onnxruntime', reason='the extra "onnx" is not installed')


@pytest.fixture
def in_this_process(monkeypatch):
    """Export without the child process, whose start takes seconds; tests/cli/test_export.py has it."""

    def run(function, arguments, file, seconds, say):
        given = json.loads(json.dumps(arguments, default=str))
        try:
            with staged_file(file) as staged:
                return write_graph(**given, file=staged, say=say)
        except TimmAbnError as error:
            raise CommandError(str(error)) from None

    monkeypatch.setattr('timm_abn_cli.export.run_limited', run)


def run_onnx(onnxruntime, file, images):
    """Return outputs by name."""
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {'images': images.numpy()}))))


def assert_explains(model, outputs, images):
    explanation = model.explain(images)
    assert list(outputs) == ['logits', 'attention_map', *(['class_maps'] if isinstance(model, AttachedNet) else [])]
    for name, output in outputs.items():
        torch.testing.assert_close(output, getattr(explanation, name), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('backbone', OTHERS)
def test_dynamic_graphs_take_other_batches_and_sizes(onnxruntime, tmp_path, backbone):
    (batch, *size), smaller = OTHERS[backbone]
    model = tiny_abn(backbone, **smaller)
    exported = export_network(model, dynamic='all')
    assert exported.dynamic_axes == {0: 'batch', 2: 'height', 3: 'width'}
    exported.save_onnx(tmp_path / 'model.onnx', dict(model='tiny'))
    exported.save(tmp_path / 'model.pt2', dict(model='tiny'))
    program = torch.export.load(tmp_path / 'model.pt2').module()
    for images in (tiny_images(1), tiny_images(batch, size=size)):
        assert_explains(model, run_onnx(onnxruntime, tmp_path / 'model.onnx', images), images)
        assert_explains(model, program(images), images)


@pytest.mark.parametrize(
    'backbone, dynamic',
    fast_and_slow(
        [(backbone, dynamic) for backbone in ATTACHED for dynamic in ('', 'all')],
        [],
        [*((backbone, 'all') for backbone in ATTACHED), ('test_vit', ''), ('refined', '')],
    ),
)
def test_attached_networks_have_class_maps(onnxruntime, tmp_path, backbone, dynamic):
    if backbone == 'refined':
        model = tiny_attached('test_resnet', refined=True)
        torch.nn.init.normal_(model.refinement.out.weight)
    else:
        model = attach(timm.create_model(backbone, num_classes=5, **ATTACHED[backbone]).eval())
    exported = export_network(model, dynamic)
    exported.save_onnx(tmp_path / 'model.onnx', {})
    images = tiny_images(3 if dynamic else 1, size=timm.models.get_model_input_config(model)['input_size'][1:])
    for outputs in (run_onnx(onnxruntime, tmp_path / 'model.onnx', images), exported.program.module()(images)):
        assert_explains(model, outputs, images)


@pytest.mark.slow
def test_backbone_of_one_size_is_dynamic_in_the_batch_alone(onnxruntime, tmp_path):
    model = tiny_abn('test_vit', dynamic_img_size=False, depth=2)
    exported = export_network(model, dynamic='all')
    assert exported.dynamic_axes == {0: 'batch'}
    exported.save_onnx(tmp_path / 'model.onnx', {})
    assert_explains(model, run_onnx(onnxruntime, tmp_path / 'model.onnx', tiny_images(7)), tiny_images(7))
    with pytest.raises(Exception, match='Got invalid dimensions'):
        run_onnx(onnxruntime, tmp_path / 'model.onnx', tiny_images(1, size=(96, 96)))


@pytest.mark.slow
def test_multi_task_graph_has_a_map_for_each_task(onnxruntime, tmp_path):
    model = tiny_abn('test_resnet', multi_task=True, num_classes=3, task_chunk_size=2)
    exported = export_network(model, dynamic='all')
    exported.save_onnx(tmp_path / 'model.onnx', {})
    images = tiny_images(5, size=(72, 64))
    for outputs in (run_onnx(onnxruntime, tmp_path / 'model.onnx', images), exported.program.module()(images)):
        assert outputs['attention_map'].shape == (5, 3, 5, 4) and outputs['logits'].shape == (5, 3)
        assert_explains(model, outputs, images)


@pytest.mark.slow
@pytest.mark.parametrize('dynamic, axes', [('all', {0: 'batch'}), ('size', {})])
def test_sizes_are_not_traced_where_padding_depends_on_them(dynamic, axes):
    model = timm.create_model('abn', backbone='test_efficientnet', pad_type='same', num_classes=3).eval()
    assert export_network(model, dynamic).dynamic_axes == axes


@pytest.mark.slow
def test_cam_baseline_has_the_same_two_outputs(in_this_process, onnxruntime, tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model('cam_resnet110_cifar', num_blocks=1, num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    file = tmp_path / 'cam.onnx'
    command = ['export', 'onnx', '--model', 'cam_resnet110_cifar', '--checkpoint', str(tmp_path / 'weights.pth')]
    assert main([*command, '--dynamic', '--out', str(file), '--model-kwargs', 'num_blocks=1']) == 0
    assert 'Images: batch x 3 x height x width\n' in capsys.readouterr().out
    for images in (tiny_images(1, size=(32, 32)), tiny_images(5, size=(48, 36))):
        assert_explains(model, run_onnx(onnxruntime, file, images), images)


@pytest.mark.parametrize('mechanism, attention_map', [('product', 'sigmoid'), ('residual', 'sum_log')])
def test_variants(mechanism, attention_map):
    model = tiny_abn('test_resnet', mechanism=mechanism, attention_map=attention_map, in_chans=4)
    images = tiny_images(1, channels=4, size=timm.models.get_model_input_config(model)['input_size'][1:])
    exported = export_network(model)
    assert exported.dynamic_axes == {}
    assert_explains(model, exported.program.module()(images), images)
    assert export_metadata(model, 'abn') == dict(
        model='abn', probabilities='softmax'
    )  # nothing is known of images of four channels


@pytest.mark.parametrize(
    'dynamic, axes, others',
    [
        ('batch', {0: 'batch'}, tiny_images(5)),
        pytest.param('size', {2: 'height', 3: 'width'}, tiny_images(1, size=(72, 100)), marks=pytest.mark.slow),
    ],
)
def test_what_may_have_any_length_can_be_chosen(dynamic, axes, others):
    model = tiny_abn('test_resnet')
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, 64, 64))
    exported = export_network(model, dynamic)
    assert exported.dynamic_axes == axes
    assert_explains(model, exported.program.module()(others), others)
    fixed = tiny_images(*((1, 3, (96, 64)) if dynamic == 'batch' else (2,)))
    with pytest.raises(Exception, match='[Gg]uard|constraint|shape'):
        exported.program.module()(fixed)


@pytest.mark.slow
def test_files_do_not_say_where_they_were_made(onnxruntime, tmp_path):
    onnx = pytest.importorskip('onnx')
    exported = export_network(tiny_abn('test_resnet'))
    exported.save_onnx(tmp_path / 'model.onnx', dict(model='tiny'))
    exported.save(tmp_path / 'model.pt2', dict(model='tiny'))
    graph = onnx.load(tmp_path / 'model.onnx')
    assert [entry.key for entry in graph.metadata_props] == ['model']
    parts = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    assert not any(part.doc_string or getattr(part, 'metadata_props', ()) for part in parts)
    with zipfile.ZipFile(tmp_path / 'model.pt2') as archive:
        contents = b''.join(archive.read(name) for name in archive.namelist())
    for content in ((tmp_path / 'model.onnx').read_bytes(), contents):
        assert b'.py' not in content and str(Path.home()).encode() not in content


def test_what_differs_is_refused():
    model, images = tiny_abn('test_resnet'), tiny_images(1)
    good = {name: getattr(model.explain(images), name) for name in ('logits', 'attention_map')}
    assert largest_difference(model, lambda _: good, [images]) == 0
    for bad, message in (
        (good['attention_map'] + 2e-4, 'differs from the network by 0.0002'),
        (good['attention_map'] * torch.nan, 'differs from the network by nan'),
        (good['attention_map'][0], r'attention_map has shape \(1, 4, 4\), not \(1, 1, 4, 4\)'),
    ):
        outputs = dict(good, attention_map=bad)
        with pytest.raises(ExportError, match=message):
            largest_difference(model, lambda _, outputs=outputs: outputs, [images])


def test_network_that_cannot_be_traced(monkeypatch):
    model = tiny_abn('test_resnet')
    with pytest.raises(ValueError, match="dynamic must be .* got 'width'"):
        export_network(model, 'width')
    monkeypatch.setattr(model.attention_branch.stage, 'forward', lambda x: x * x.sum().item() if x.sum() > 0 else x)
    with pytest.raises(ExportError, match='^cannot be traced: [^\n]+$'):
        export_network(model)


def test_onnx_command(in_this_process, onnxruntime, tmp_path, capsys):
    onnx = pytest.importorskip('onnx')
    file = tmp_path / 'new' / 'model.onnx'
    assert main(['export', 'onnx', '--model', MODEL, '--out', str(file)]) == 0
    assert [path.name for path in file.parent.iterdir()] == ['model.onnx']
    captured = capsys.readouterr()
    assert 'Images: 1 x 1 x 28 x 28\n' in captured.out
    phases = [
        f'loading {MODEL}',
        'tracing images of 1 x 1 x 28 x 28',
        'converting, to onnx',
        'comparing with the model',
    ]
    assert [line.split(' s  ')[1] for line in captured.err.splitlines()] == phases
    assert 'Largest difference from the model: ' in captured.out
    graph = onnx.load(file)
    onnx.checker.check_model(graph, full_check=True)
    metadata = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert metadata['model'] == MODEL and metadata['mean'] == [0.2860] and metadata['label_names'][0] == 't-shirt/top'
    model = timm.create_model(MODEL, pretrained=True).eval()
    images = tiny_images(1, channels=1, size=(28, 28))
    assert_explains(model, run_onnx(onnxruntime, file, images), images)


@pytest.mark.parametrize(
    'dynamic_img_size, said, size',
    [
        pytest.param(True, 'batch x 3 x height x width (multiples of 16)', (48, 32), marks=pytest.mark.slow),
        pytest.param(
            False, 'batch x 3 x 32 x 32 (other image sizes cannot be traced)', (32, 32), marks=pytest.mark.slow
        ),
    ],
)
def test_torch_export_command(in_this_process, tmp_path, capsys, dynamic_img_size, said, size):
    torch.manual_seed(0)
    arguments = dict(backbone='test_vit', img_size=32, dynamic_img_size=dynamic_img_size, depth=2, num_classes=5)
    model = timm.create_model('abn', **arguments).eval()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    options = [f'{name}={value}' for name, value in arguments.items() if name != 'num_classes']
    file = tmp_path / 'model.pt2'
    command = ['export', 'torch-export', '--model', 'abn', '--checkpoint', str(tmp_path / 'weights.pth')]
    assert main([*command, '--dynamic', '--out', str(file), '--model-kwargs', *options]) == 0
    assert f'Images: {said}\n' in capsys.readouterr().out
    extra = {'metadata.json': ''}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra['metadata.json'])['input_size'] == [3, 32, 32]
    images = tiny_images(2, size=size)
    assert_explains(model, program(images), images)


PROGRAM = ['torch-export', '--out', 'model.pt2']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['onnx', '--model', MODEL, '--out', 'model.pt2'], '--out must end in .onnx for onnx, got model.pt2'),
        (['torch-export', '--model', MODEL, '--out', 'folder.pt2'], 'folder.pt2 is a folder, not a file to write'),
        (['tflite', '--model', MODEL, '--out', 'model.tflite'], "invalid choice: 'tflite'"),
        ([*PROGRAM, '--model', 'abn_resnet50'], 'no weights are published for abn_resnet50: '),
        ([*PROGRAM, '--model', 'resnet5'], 'resnet5 is not a model; did you mean'),
        (['torch-export', '--model', MODEL], 'the following arguments are required: --out'),
    ],
)
def test_bad_input_is_one_line(in_this_process, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder.pt2').mkdir()
    assert main(['export', *arguments]) == 2
    *phases, error = capsys.readouterr().err.splitlines()
    assert message in error and all('loading' in phase for phase in phases)
    assert [path.name for path in tmp_path.iterdir()] == ['folder.pt2']


def test_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    said = refusal(capsys, 'export', 'onnx', '--model', MODEL, '--out', tmp_path / 'model.onnx')
    assert said.endswith('ONNX needs onnxscript: pip install onnx onnxscript onnxruntime')


def test_failed_export_leaves_nothing(in_this_process, tmp_path, monkeypatch, capsys):
    def fail(self, file, metadata):
        file.write_bytes(b'half')
        raise ExportError('cannot be converted')

    monkeypatch.setattr('timm_abn.export.graph.ExportedNetwork.save', fail)
    assert main(['export', 'torch-export', '--model', MODEL, '--out', str(tmp_path / 'new' / 'model.pt2')]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f'timm-abn: error: cannot export {MODEL}: cannot be converted'
    assert not list(tmp_path.iterdir())
