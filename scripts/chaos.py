#!/usr/bin/env python3
"""What must end well whatever happens: hostile files, full disks, little memory, kills, and a page under load.

python scripts/chaos.py --tries 5000 --seed 1

A try is bad if it ends in a traceback, hangs, leaves a process or half a file, has another exit code than it should, or
another number than without trouble. Prints the bad ones and counts by kind; exits with 1 if any is bad. Two cores.
"""

import argparse
import collections
import csv
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
from chaos_page import PATIENCE, SAMPLES, bad_of_page
from PIL import Image

import timm_abn
from timm_abn.data.images import read_image
from timm_abn.publish.folder import save_hub_folder

MODEL = 'abn_resnet20_cifar.fashion_mnist'
START = [sys.executable, '-c', 'import sys, timm_abn_cli; sys.exit(timm_abn_cli.entry_point())']
SECONDS, MEGABYTES = 5, 1000  # of the processor, and of memory, for a file that somebody else made
LIMITS = {'disk': (resource.RLIMIT_FSIZE, 100, 200_000), 'memory': (resource.RLIMIT_AS, 3_800_000_000, 5_000_000_000)}
VALUES = [None, True, 0, -1, 1, 2, 3, 7, 1e308, -0.5, '', 'x' * 5000, '\x1b[2J\n', '\ud800', [], {}, [3, 8192, 8192]]
VALUES += [[1, 28], [0, 0, 0], 10**30, float('nan'), 'layer2', 'relu', '../../etc/passwd', [[]] * 10_000]
TEXTS = ['', '{', '[' * 100_000, '{"a":' * 5000, f'[{"[]," * 10**6}0]', '\0', '9' * 10**5]
FORMATS = ('PNG', 'JPEG', 'GIF', 'TIFF', 'BMP', 'WEBP', 'ICO', 'PPM')
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
HUGE = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0'  # 65,536 x 65,536 pixels
HEADS = (
    POSTSCRIPT,
    HUGE,
    b'GIF89a\xff\xff\xff\xff',
    b'II*\0\xff\xff\xff\xff',
    b'P6 99999 99999 255\n',
    b'%PDF-1.4',
    b'',
)


def try_config(folder, rng):
    """Load a model whose configuration was changed at random places."""
    config = json.loads((folder / 'config.json').read_text())
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, key = config, rng.choice(list(config))
        while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place, dict) and rng.random() < 0.25:
            place[rng.choice(['backbone', 'split', 'mechanism', 'file', 'url', 'num_classes', '\0'])] = place[key]
        elif len(place) > 1 and rng.random() < 0.25:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
    text = json.dumps(config) if rng.random() < 0.95 else rng.choice(TEXTS)
    hostile = folder.parent / 'hostile'
    shutil.copytree(folder, hostile, dirs_exist_ok=True)
    (hostile / 'config.json').write_text(text, errors='surrogatepass')
    logits = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = timm_abn.load_model(f'local-dir:{hostile}')
        torch.manual_seed(0)
        logits.append(model(torch.randn(1, model.in_chans, 28, 28)))
    assert torch.equal(*logits), f'predictions change with the seed: {text[:300]}'


def hostile_image(rng):
    """Return an image that was changed at random places, cut, or given another head."""
    content = io.BytesIO()
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, rng.choice(FORMATS))
    data, what = bytearray(content.getvalue()), rng.randrange(6)
    if what == 0:
        data = data[: rng.randrange(len(data))]
    elif what == 1:
        data = rng.choice(HEADS) + data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([1, 3, 30]) if what > 1 else 0):
        data[rng.randrange(min(len(data), rng.choice([64, 10**6])))] = rng.randrange(256)
    return bytes(data)


def try_image(folder, rng):
    """Read a hostile image, or a folder."""
    path = folder / 'hostile.png'
    path.write_bytes(hostile_image(rng))
    read_image(folder if rng.random() < 0.02 else path).load()


def bad_of(function, *args):
    """Return what is bad about a try in this process, or None."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.alarm(60)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            function(*args)
    except timm_abn.TimmAbnError as error:
        if not str(error).isprintable() or len(str(error)) > 2000:
            return f'not one line: {str(error)[:300]!r}'
    except Exception as error:
        return f'{type(error).__name__}: {str(error)[:300]}'
    finally:
        signal.alarm(0)
    seconds = time.process_time() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f'{seconds:.1f} s, {megabytes:.0f} MB' if seconds > SECONDS or megabytes > MEGABYTES else None


def numbers(out):
    """Return what a command computed, from its files, which are whole."""
    for path in out.rglob('*.json'):
        json.loads(path.read_text())
    for path in [*out.rglob('*.pt2'), *out.rglob('*.tar')]:
        assert zipfile.ZipFile(path).testzip() is None
    found = {path.name: [*csv.DictReader(path.read_text().splitlines())] for path in out.rglob('*.csv')}
    for row in found.get('summary.csv', []):
        row.pop('seconds', '')  # which a round took
    return {**found, **{path.name: read_image(path).tobytes() for path in out.rglob('*.png')}}


class Commands:
    """Commands in processes of their own, each in a new folder, beside what they give without trouble."""

    def __init__(self, folder, photos, checkpoint, others):
        attach = f'attach --model resnet20_cifar --checkpoint {checkpoint} --data-dir {photos}'
        self.folder, self.others = folder, others
        self.commands = {
            'attach': f'{attach} --steps 2 --batch-size 8 --device cpu --out out',
            'evaluate': f'evaluate --model {MODEL} --data-dir {photos} --steps 4 --methods attention --out out',
            'explain': f'explain {photos} --model {MODEL} --out out',
            'export': f'export torch-export --model {MODEL} --out out/model.pt2',
        }
        self.expected, self.seconds = {}, {}
        for name, command in self.commands.items():
            start = time.monotonic()
            code, error = self.run(folder / name, command)
            assert code == 0, error
            self.expected[name], self.seconds[name] = numbers(folder / name / 'out'), time.monotonic() - start

    def run(self, folder, command, wait=PATIENCE, number=signal.SIGKILL, limit=None):
        """Return the exit code, and what was said by a command and by all that it started, which end with it."""

        def prepare():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if limit:
                resource.setrlimit(limit[0], (limit[1], limit[1]))

        folder.mkdir(exist_ok=True)
        options = dict(cwd=folder, env=dict(os.environ, **self.others), stdout=subprocess.DEVNULL, preexec_fn=prepare)
        process = subprocess.Popen([*START, *command.split()], stderr=subprocess.PIPE, text=True, **options)
        try:
            error = process.communicate(timeout=wait)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            error = process.communicate(timeout=60)[1]
        return process.returncode, error

    def bad(self, kind, rng):
        """Return what is bad about a try, or None."""
        name, codes, options = rng.choice(list(self.commands)), (0, 2), {}
        command, folder = self.commands[name], self.folder / f'{name}-{rng.randrange(10**9)}'
        if kind == 'kill':
            number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
            codes = (0, -number, 128 + number)  # the former before Python begins, and after it has ended
            options = dict(wait=rng.uniform(0.1, 1) * self.seconds[name], number=number)
        else:
            limit, low, high = LIMITS[kind]
            options = dict(limit=(limit, rng.randrange(low, high)))
        try:
            code, error = self.run(folder, command, **options)
            wrong = [f'exit code {code}'] * (code not in codes) + ['a traceback'] * ('Traceback' in error)
            wrong += ['half a file'] * (code != -9 and any(folder.rglob('.partial-*')))
            numbers(folder / 'out')
            has_begun = name == 'attach' and (folder / 'out').exists() and any((folder / 'out').iterdir())
            code, again = self.run(folder, f'{command} --resume' if has_begun else command)
            if code or any(folder.rglob('.partial-*')) or numbers(folder / 'out') != self.expected[name]:
                wrong.append(f'afterwards exit code {code}, or other numbers, or half a file ({again[-200:]!r})')
        except Exception as broken:  # a file that cannot be read, or a process that does not end
            wrong, error = [f'{type(broken).__name__}: {broken}'], ''
        shutil.rmtree(folder)
        return f'{name}, {options}: {", ".join(wrong)} {error[-300:]!r}' if wrong else None


def prepared(folder):
    """Write photos, a checkpoint and a model, and a program that says so if it is started as Ghostscript."""
    for index, sample in enumerate(SAMPLES * 2):
        (folder / 'photos' / 'ab'[index % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample, folder / 'photos' / 'ab'[index % 2] / f'{index}.png')
    torch.manual_seed(0)
    weights = timm.create_model('resnet20_cifar', num_classes=2).state_dict()
    recorded = argparse.Namespace(model='resnet20_cifar', num_classes=2, input_size=[3, 16, 16])
    torch.save(dict(arch='resnet20_cifar', state_dict=weights, args=recorded), folder / 'plain.pth.tar')
    save_hub_folder(timm.create_model(MODEL, pretrained=True), folder / 'model', card='')
    nameless = timm.create_model('abn_resnet20_cifar', num_classes=2)  # of whose classes no names tell how many
    save_hub_folder(nameless, folder / 'nameless', card='')
    (folder / 'bin').mkdir()
    (folder / 'bin' / 'gs').write_text(f'#!/bin/sh\ntouch {folder}/started\nexit 1\n')
    (folder / 'bin' / 'gs').chmod(0o755)
    os.environ['PATH'] = f'{folder / "bin"}:{os.environ["PATH"]}'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tries', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts, bad = collections.Counter(), collections.Counter()
    others = dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(filter(None, sys.path)))

    def count(kind, found):
        counts[kind] += 1
        bad[kind] += bool(found)
        if found:
            print(f'{kind}: {found}', flush=True)

    def hang(*_):
        raise AssertionError('it hangs')

    with tempfile.TemporaryDirectory(prefix='chaos-') as scratch:
        folder = Path(scratch)
        prepared(folder)

        def run_commands():
            rng = random.Random(args.seed)
            commands = Commands(folder, folder / 'photos', folder / 'plain.pth.tar', others)
            for kind in ['kill', 'disk', 'kill', 'memory'] * max(1, args.tries // 400):
                count(kind, commands.bad(kind, rng))

        beside = threading.Thread(target=run_commands)
        beside.start()
        signal.signal(signal.SIGALRM, hang)
        rng = random.Random(args.seed + 1)
        for _ in range(args.tries * 45 // 100):
            count('config', bad_of(try_config, folder / rng.choice(['model', 'nameless']), rng))
            count('image', bad_of(try_image, folder, rng))
        beside.join()
        if importlib.util.find_spec('gradio'):
            images = [rng.choice([POSTSCRIPT, hostile_image(rng)]) for _ in range(args.tries // 10)]
            command = [*START, 'app', '--model', MODEL]
            for found in bad_of_page(command, folder, dict(os.environ, **others), images, rng):
                count('page', found)
            counts['page'] = len(images)
        count('started programs', (folder / 'started').exists() and 'Ghostscript was started')
    for kind in sorted(counts):
        print(f'{kind}: {counts[kind]} tries, {bad[kind]} bad')
    return 1 if bad.total() else 0


if __name__ == '__main__':
    sys.exit(main())
