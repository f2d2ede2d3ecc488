"""Configurations and weights from elsewhere that are wrong, hostile, or damaged at random."""

import copy
import json
import random
import resource
import threading
import time
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import load_state_dict
from tiny_models import tiny_abn

import timm_abn
from timm_abn import load_model
from timm_abn.checkpoint_files import CheckpointError
from timm_abn.hub.building import MOST, build_without_memory, check_folder
from timm_abn.hub.config import HubError, check_config, read_config
from timm_abn.hub.download import one_line_errors, read_header
from timm_abn.hub.state_dicts import check_state_dict

NUM_CONFIGS = 2000
NUM_CHECKPOINTS = 300


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder of a model of few parameters, which tests copy."""
    folder = tmp_path_factory.mktemp('good')
    model = tiny_abn('resnet20_cifar')
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


@pytest.fixture(scope='module')
def good(folder):
    return json.loads((folder / 'config.json').read_text())


def written(tmp_path, folder, config):
    """Return the address of a folder with this configuration and the good weights."""
    (tmp_path / 'config.json').write_text(config if isinstance(config, str) else json.dumps(config))
    (tmp_path / 'model.safetensors').symlink_to(folder / 'model.safetensors')
    return f'local-dir:{tmp_path}'


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, key = path
    place = config
    for parent in parents:
        place = place[parent]
    place[key] = value
    return config


def test_good_one(folder, good):
    check_config(good, 'here')
    assert check_folder(folder) == good


BAD_ENTRIES = [
    (('model_args', 'backbone'), '../../etc/passwd', 'model_args.backbone'),
    (('model_args', 'backbone'), 'hf-hub:someone/else', 'model_args.backbone'),
    (('model_args', 'backbone'), 'local-dir:/etc', 'model_args.backbone'),
    (('model_args', 'backbone'), 5, 'model_args.backbone'),
    (('model_args', 'split'), '/etc/passwd', 'model_args.split'),
    (('model_args', 'split'), [1], 'model_args.split'),
    (('model_args', 'mechanism'), 'magic', 'model_args: mechanism must be'),
    (('model_args', 'gate'), 'later', 'model_args: gate must be'),
    (('model_args', 'init'), 'x' * 10**6, 'model_args: init must be'),
    (('model_args', 'hard_attention'), float('nan'), 'model_args: hard_attention must be'),
    (('model_args', 'task_chunk_size'), 2, 'model_args: task_chunk_size=2 needs multi_task=True'),
    (('model_args', 'map_scale'), 0, 'model_args: map_scale must be'),
    (('model_args', 'map_scale'), 10**6, 'model_args: map_scale must be'),
    (('model_args', 'padding_mode'), 'circular', 'model_args: padding_mode must be'),
    (('model_args', 'attention_map'), ['sigmoid'], 'model_args: attention_map must be'),
    (('model_args', 'attention_norm'), 'yes', 'model_args: attention_norm must be'),
    (('model_args', 'multi_task'), 1, 'model_args: multi_task must be'),
    (('model_args', 'num_classes'), 10**12, 'model_args: num_classes must be'),
    (('model_args', 'num_classes'), -1, 'model_args: num_classes must be'),
    (('model_args', 'num_classes'), True, 'model_args: num_classes must be'),
    (('model_args', 'num_classes'), '10', 'model_args: num_classes must be'),
    (('model_args', 'in_chans'), None, 'model_args: in_chans must be'),
    (('model_args', 'in_chans'), 2**40, 'model_args: in_chans must be'),
    (('model_args', 'img_size'), [10**9, 10**9], 'model_args.img_size'),
    (('model_args', 'pretrained_backbone'), '/etc/passwd', 'pretrained_backbone'),
    (('model_args', 'checkpoint_path'), '/etc/passwd', 'checkpoint_path'),
    (('model_args', 'pretrained_cfg_overlay'), dict(file='/etc/passwd'), 'pretrained_cfg_overlay'),
    (('model_args', 'cache_dir'), '/', 'cache_dir'),
    (('model_args', 'device'), 'cuda', 'device'),
    (('model_args', 'block_args'), dict(checkpoint_path='/etc/passwd'), 'checkpoint_path'),
    (('model_args', 'norm_layer'), 'os/system', 'model_args.norm_layer'),
    (('model_args', 'embed_dim'), 10**10, 'model_args.embed_dim'),
    (('model_args', 'drop_path_rate'), float('nan'), 'model_args.drop_path_rate'),
    (('model_args', 'depths'), [1] * 10**5, 'model_args.depths'),
    (('model_args', 'depths'), [[[[[[1]]]]]], 'model_args.depths'),
    (('model_args',), ['backbone'], 'model_args'),
    (('pretrained_cfg', 'url'), 'http://example.org/weights.pth', "pretrained_cfg must not hold 'url'"),
    (('pretrained_cfg', 'hf_hub_filename'), '../evil.bin', "pretrained_cfg must not hold 'hf_hub_filename'"),
    (('pretrained_cfg', 'state_dict'), {}, "pretrained_cfg must not hold 'state_dict'"),
    (('pretrained_cfg', 'auto_map'), {}, "pretrained_cfg must not hold 'auto_map'"),
    (('pretrained_cfg', 'custom_load'), 'hf', 'pretrained_cfg.custom_load'),
    (('pretrained_cfg', 'input_size'), [3, 10**6, 10**6], 'pretrained_cfg.input_size'),
    (('pretrained_cfg', 'input_size'), '3x32x32', 'pretrained_cfg.input_size'),
    (('pretrained_cfg', 'input_size'), [3, 8192, 8192], 'pretrained_cfg.input_size'),
    (('pretrained_cfg', 'input_size'), [3, 2048, 2048], 'input_size is of 12,582,912 values, more than 8,388,608'),
    (('pretrained_cfg', 'test_input_size'), [1, 64, 64], 'in_chans contradicts itself: 3 in pretrained_cfg.input_size'),
    (('model_args', 'in_chans'), 4, 'in_chans contradicts itself: 3 in pretrained_cfg.input_size, 4 in model_args'),
    (('model_args', 'num_classes'), 0, 'num_classes contradicts itself: 5 in pretrained_cfg, 0 in model_args'),
    (('model_args', 'num_classes'), 1, 'num_classes contradicts itself: 5 in pretrained_cfg, 1 in model_args'),
    (('pretrained_cfg', 'num_classes'), 3, 'num_classes contradicts itself: 5 in config.json, 3 in pretrained_cfg'),
    (('num_classes',), 0, 'num_classes contradicts itself: 0 in pretrained_cfg, 5 in model_args'),
    (('pretrained_cfg', 'architecture'), 'abn_resnet18', "architecture contradicts itself: 'abn' in config.json"),
    (('model_args', 'global_pool'), 'max', "global_pool contradicts itself: 'avg' in config.json, 'max' in model_args"),
    (('probabilities',), 'logistic', 'probabilities must be one of'),
    (('explained_by',), 'heat', 'explained_by must be one of'),
    (('pretrained_cfg', 'mean'), [0.5, None], 'pretrained_cfg.mean'),
    (('pretrained_cfg', 'mean'), [0.5] * 5, 'pretrained_cfg.mean has 5 values for 3 channels'),
    (('pretrained_cfg', 'std'), [0, 0, 0], 'pretrained_cfg.std'),
    (('pretrained_cfg', 'crop_pct'), 'all', 'pretrained_cfg.crop_pct'),
    (('pretrained_cfg', 'crop_pct'), 10, 'pretrained_cfg.crop_pct must be a number from 0.25 to 1'),
    (('pretrained_cfg', 'interpolation'), 'cubist', 'pretrained_cfg.interpolation'),
    (('pretrained_cfg', 'interpolation'), 'random', 'pretrained_cfg.interpolation'),
    (('pretrained_cfg', 'first_conv'), '../conv1', 'pretrained_cfg.first_conv'),
    (('pretrained_cfg', 'classifier'), {'a': 1}, 'pretrained_cfg.classifier'),
    (('num_classes',), 2**60, 'pretrained_cfg.num_classes'),
    (('pretrained_cfg', 'label_names'), 'cat', 'pretrained_cfg.label_names'),
    (('pretrained_cfg', 'label_names'), ['cat'], '1 label_names for 5 classes'),
    (('pretrained_cfg', 'label_names'), ['cat\ud800'] * 5, 'pretrained_cfg.label_names'),
    (('pretrained_cfg', 'label_names'), ['\x1b[2Jcat'] * 5, 'pretrained_cfg.label_names'),
    (('pretrained_cfg', 'label_names'), ['cat\u202etac'] * 5, 'pretrained_cfg.label_names'),
    (('pretrained_cfg', 'license'), 'x' * 10**6, 'pretrained_cfg.license'),
    (('pretrained_cfg',), [], 'pretrained_cfg'),
    (('architecture',), 'no_such_model', 'architecture'),
    (('architecture',), '../abn', 'architecture'),
    (('architecture',), None, 'architecture'),
    (('label_names',), 7, 'label_names'),
]


@pytest.mark.parametrize(('path', 'value', 'name'), BAD_ENTRIES)
def test_bad_entries_are_refused_by_name(path, value, name, good):
    with pytest.raises(HubError) as error:
        check_config(changed(good, path, value), 'me/tiny')
    message = str(error.value)
    assert message.startswith('me/tiny: ') and name in message
    assert '\n' not in message and len(message) < 400


@pytest.mark.parametrize(
    ('path', 'value', 'name'),
    # what timm itself takes apart before it asks us fails there
    [entry for entry in BAD_ENTRIES if len(entry[0]) == 2 and entry[0][1] not in ('in_chans', 'cache_dir', 'device')],
)
def test_timm_refuses_them_as_well(path, value, name, good, folder, tmp_path):
    with pytest.raises((HubError, TypeError)):
        timm.create_model(written(tmp_path, folder, changed(good, path, value)), pretrained=True)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(backbone='vit_tiny_patch16_224', embed_dim=65536, num_heads=64), 'more than 10,000,000,000 parameters'),
        (dict(backbone='resnet18', layers=[65536] * 4), 'more than 10,000 tensors'),
        (dict(backbone='resnet18', no_such_argument=1), "unexpected keyword argument 'no_such_argument'"),
        (dict(backbone='no_such_model'), "Unknown backbone 'no_such_model'"),
        (dict(backbone='abn_resnet18'), 'already has an attention branch'),
        (dict(backbone='resnet18', split='layer9'), 'layer9'),
        (dict(backbone='resnet18', split='layer2.0.bn1'), 'cannot be split'),
    ],
)
@pytest.mark.parametrize('pretrained', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_networks_that_cannot_be_are_refused_without_memory(arguments, message, pretrained, good, folder, tmp_path):
    address = written(tmp_path, folder, changed(good, ('model_args',), dict(arguments, num_classes=5)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(HubError, match=message) as error:
        timm.create_model(address, pretrained=pretrained)
    assert '\n' not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert time.process_time() - start < 20


@pytest.mark.parametrize('said', [0, 1, 3])
@pytest.mark.parametrize('load', [load_model, partial(timm.create_model, pretrained=True)])
def test_another_number_of_classes_is_no_random_classifier(load, said, good, folder, tmp_path):
    config = changed(changed(good, ('num_classes',), said), ('pretrained_cfg', 'num_classes'), said)
    address = written(tmp_path, folder, config)
    with pytest.raises(timm_abn.TimmAbnError, match=f'num_classes contradicts itself: {said} in pretrained_cfg, 5 in'):
        load(address)
    (tmp_path / 'config.json').write_text(json.dumps(good))
    assert load(address, num_classes=3).num_classes == 3  # who asks for other classes gets a new classifier


def test_timm_replaces_nothing_but_classifiers(good, folder, tmp_path):
    classifiers = [good['pretrained_cfg']['classifier'], 'feature_extractor.conv1']
    written(tmp_path, folder, changed(good, ('pretrained_cfg', 'classifier'), classifiers))
    with pytest.raises(HubError, match="classifier 'feature_extractor.conv1' has 16 outputs, not 5"):
        check_folder(tmp_path)


@pytest.mark.parametrize('kind', ['config', 'header'])
def test_long_lists_of_nothing_are_refused_before_they_take_memory(kind, good, folder, tmp_path):
    name = 'config.json' if kind == 'config' else 'model.safetensors'
    text = '{"architecture": "abn", "pretrained_cfg": {"label_names": [' + '[],' * (2**24 // 3)
    if kind == 'header':
        tensor = '"%x":{"dtype":"F32","shape":[],"data_offsets":[0,0]},'
        text = '{' + ''.join(tensor % index for index in range(100_000))[:-1] + '}'
        written(tmp_path, folder, good)
        (tmp_path / name).unlink()
    size = len(text).to_bytes(8, 'little') if kind == 'header' else b''
    (tmp_path / name).write_bytes(size + text.encode() + b' ')
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(HubError, match='more than 4194304'):
        check_folder(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.process_time() - start < 5


def test_only_what_is_made_in_the_same_thread_counts():
    def create(device):
        other = threading.Thread(target=lambda: made.extend(torch.zeros(()) for _ in range(2 * MOST['tensors'])))
        other.start()
        other.join()
        return torch.nn.Linear(2, 2, device=device)

    made = []
    assert build_without_memory(create, 'here').weight.is_meta
    assert len(made) == 2 * MOST['tensors']


@pytest.mark.parametrize(
    'text',
    ['', '{', 'null', '[]', '"abn"', '[' * 100_000, '{"a": ' * 20_000, '1' * 5000, '\x00', '{"architecture": {}}'],
)
def test_files_that_are_no_configuration(text, tmp_path):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(HubError) as error:
        read_config(tmp_path / 'config.json', 'me/tiny')
    assert str(error.value).startswith('me/tiny: ') and '\n' not in str(error.value)


def test_files_that_are_too_long(tmp_path):
    with (tmp_path / 'config.json').open('wb') as file:
        file.truncate(2**30)
    with pytest.raises(HubError, match='1073741824 bytes'):
        read_config(tmp_path / 'config.json', 'me/tiny')
    with pytest.raises(HubError, match='there is no config.json'):
        read_config(tmp_path, 'me/tiny')


STRANGE = [None, True, -1, 0, 1, 10**15, 1.5, float('inf'), [], {}, [0] * 300]
STRANGE += ['', 'x', '../..', '/dev/zero', 'a' * 10**5]
STRANGE_KEYS = ('', *'file url checkpoint_path split img_size device in_chans norm_layer __class__'.split())


def mutated(value, rng):
    """Return a copy of a configuration that differs from it at one to three places."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        place = value
        while isinstance(place, dict) and place:
            key = rng.choice(list(place))
            action = rng.random()
            if action < 0.5 and isinstance(place[key], dict) and place[key]:
                place = place[key]
            elif action < 0.6:
                del place[key]
                break
            elif action < 0.75:
                place[rng.choice([*STRANGE_KEYS, key + 'x'])] = rng.choice(STRANGE)
                break
            else:
                place[key] = strange(place[key], rng)
                break
    return value


def strange(value, rng):
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.5:
        return [*value[:-1], rng.choice(STRANGE)]
    if isinstance(value, str) and rng.random() < 0.5:
        return value[: rng.randint(0, len(value))] + rng.choice(['\n', '/', '\x00', 'é', '..'])
    return rng.choice(STRANGE)


@pytest.mark.parametrize('num_configs', [100, pytest.param(NUM_CONFIGS, marks=pytest.mark.nightly)])
def test_fuzzed_configurations(good, folder, tmp_path, num_configs):
    rng = random.Random(0)
    written(tmp_path, folder, good)
    text, outcomes = json.dumps(good), dict(refused=0, accepted=0)
    for number in range(num_configs):
        if number % 4:
            config = json.dumps(mutated(good, rng))
        else:  # bytes that get lost or changed
            position = rng.randrange(len(text))
            config = (
                text[:position] + rng.choice(['', '"', '9', '}', text[::-1]]) + text[position + rng.randint(0, 9) :]
            )
        (tmp_path / 'config.json').write_text(config)
        start = time.process_time()
        try:
            read_config(tmp_path / 'config.json', 'fuzz')
            outcomes['accepted'] += 1
            if outcomes['accepted'] % 40 == 0:  # those that pass are built
                check_folder(tmp_path)
        except HubError as error:
            outcomes['refused'] += 1
            assert '\n' not in str(error) and len(str(error)) < 800, config
        assert time.process_time() - start < 5, config
    assert outcomes['refused'] > num_configs / 2
    assert outcomes['accepted'] > num_configs / 20


@pytest.mark.filterwarnings('ignore:TypedStorage', 'ignore:Defining your')  # of PyTorch, of what it refuses
@pytest.mark.parametrize('ending', ['safetensors', 'pth'])
def test_fuzzed_checkpoints(ending, folder, tmp_path):
    weights = load_file(folder / 'model.safetensors')
    path = tmp_path / f'weights.{ending}'
    save = save_file if ending == 'safetensors' else torch.save
    save(weights, path)
    data, rng, outcomes = path.read_bytes(), random.Random(1), dict(refused=0, accepted=0)
    header_end = 8 + int.from_bytes(data[:8], 'little') if ending == 'safetensors' else 20_000
    for _ in range(NUM_CHECKPOINTS):
        changed = bytearray(data)
        action = rng.random()
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(8 if action < 0.2 else header_end)] = rng.randrange(256)
        if action > 0.8:
            del changed[rng.randrange(len(changed)) :]
        path.write_bytes(bytes(changed))
        start = time.process_time()
        try:
            with one_line_errors('fuzz'):
                found = read_header(path, 'fuzz') if ending == 'safetensors' else load_state_dict(str(path))
                check_state_dict(found, weights, 'fuzz')
            outcomes['accepted'] += 1
        except (CheckpointError, HubError) as error:
            outcomes['refused'] += 1
            assert '\n' not in str(error)
        assert time.process_time() - start < 5
    assert outcomes['refused'] > NUM_CHECKPOINTS / 2
