"""The page without a server: images are prepared as by Pillow, and a browser finds what PyTorch finds."""

import base64
import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading

import pytest
import timm
import torch
from browser import CHROMIUM, DRIVER, PATIENCE, requested, running_chromium
from own_scripts import load_script
from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing
from timm_abn.data.reading import read_image

script = load_script('scripts/docs/make_static_page')
NODE, NPM = shutil.which('node'), shutil.which('npm')
CONFIG = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], crop_mode='center', interpolation='bicubic')
PREPARE = """
import { prepare } from '%s';
import { readFileSync } from 'node:fs';
const { rgba, width, height, config } = JSON.parse(readFileSync(0));
const { data, box } = prepare({ data: new Uint8ClampedArray(Buffer.from(rgba, 'base64')), width, height }, config);
console.log(JSON.stringify({ data: Array.from(data), box }));
"""
EXPLAIN = """
const [name, done] = [arguments[0], arguments[arguments.length - 1]];
import('./network.js').then(async ({ Network, readImage }) => {
  const network = await Network.load();
  const result = await network.explain(await readImage(await (await fetch(name)).blob(), name));
  done([result.logits, Array.from(result.attentionMap.data)]);
}).catch((error) => done(String(error)));
"""


def noise(width, height, seed=0):
    """Return an image that any mistake of a pixel shows in."""
    values = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.numpy())


@pytest.mark.skipif(NODE is None, reason='JavaScript needs node')
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(
    ('size', 'changes'),
    [
        ((61, 40), dict(input_size=[3, 32, 32], crop_pct=0.875)),  # both shrink, a cut of an odd width
        ((40, 75), dict(input_size=[3, 32, 32], crop_pct=1.0)),
        ((9, 14), dict(input_size=[3, 24, 24], crop_pct=0.9)),  # both grow
        ((32, 32), dict(input_size=[3, 32, 32], crop_pct=1.0)),  # nothing to do
        ((50, 21), dict(input_size=[3, 28, 40], crop_pct=0.9, crop_mode='squash')),
        ((37, 61), dict(input_size=[1, 28, 28], crop_pct=1.0, mean=[0.286], std=[0.353])),  # grey
    ],
    ids=['shrink', 'tall', 'grow', 'same', 'squash', 'grey'],
)
def test_preparation_is_that_of_timm(size, changes, interpolation):
    config = dict(CONFIG, **changes, interpolation=interpolation)
    image = noise(*size)
    given = dict(
        rgba=base64.b64encode(image.convert('RGBA').tobytes()).decode(), width=size[0], height=size[1], config=config
    )
    program = PREPARE % (script.PAGE / 'preprocessing.js').as_uri()
    command = [NODE, '--input-type=module', '--eval', program]
    found = json.loads(
        subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True).stdout
    )
    model = timm.create_model('test_resnet', in_chans=config['input_size'][0])
    model.pretrained_cfg = dict(model.pretrained_cfg, **config)
    wanted, box = Preprocessing(model)(image)
    assert (torch.tensor(found['data']).view_as(wanted) - wanted).abs().max() < 1e-6
    left, top, width, height = found['box']
    assert (left, top, left + width, top + height) == pytest.approx(box, abs=0.6)  # of whole pixels


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(interpolation='lanczos'), "resized by 'lanczos', the page can bilinear and bicubic"),
        (dict(crop_mode='border'), "cut by 'border' at 0.9 to 32x32"),
        (dict(input_size=[3, 32, 64]), "cut by 'center' at 0.9 to 32x64"),
        (dict(crop_pct=1.1), "cut by 'center' at 1.1"),
    ],
)
def test_preparation_that_the_page_lacks_is_refused(changes, message):
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        script.check_preparation(dict(dict(CONFIG, input_size=[3, 32, 32], crop_pct=0.9), **changes))


@pytest.mark.parametrize('what', ['no ONNX', 'other ONNX', 'no samples', 'folder that is there', 'no file'])
def test_misuse_is_one_line(what, tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip('onnx', reason='files of ONNX need the extra onnx')
    file, samples, out = tmp_path / 'model.onnx', script.ROOT / 'timm_abn' / 'samples', tmp_path / 'page'
    file.write_text('no')
    if what == 'other ONNX':
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], 'empty', [], [])), file)
    elif what == 'no samples':
        samples = tmp_path
    elif what == 'folder that is there':
        out = tmp_path
    elif what == 'no file':
        file.unlink()
    arguments = ['--onnx', str(file), '--samples', str(samples), '--out', str(out)]
    monkeypatch.setattr('sys.argv', ['make_static_page.py', *arguments])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert error.startswith('make_static_page.py: error: ') and error.count('\n') == 1
    assert not (tmp_path / 'page').exists()


@contextlib.contextmanager
def served(folder):
    """Serve a folder as a static host does, and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f'http://127.0.0.1:{server.server_address[1]}/'
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, '.mjs': 'text/javascript'}

    def log_message(self, *args):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER and NPM), reason='the page needs chromium, chromedriver and npm')
def test_browser_finds_what_pytorch_finds(tmp_path, monkeypatch):
    pytest.importorskip('selenium', reason='the test of the page needs selenium')
    from selenium.webdriver.support.ui import WebDriverWait

    monkeypatch.setattr('sys.argv', ['make_static_page.py', '--out', str(tmp_path / 'page')])
    assert script.main() == 0
    large, broken = tmp_path / 'page' / 'large.png', tmp_path / 'broken.png'
    noise(311, 204).resize((622, 408)).save(large)
    broken.write_bytes(b'no image')
    model = timm_abn.load_model(script.PACKAGED)
    with served(tmp_path / 'page') as address, running_chromium(tmp_path) as driver:
        driver.get(address)

        def text(selector):
            return driver.find_element('css selector', selector).text

        wait = WebDriverWait(driver, PATIENCE)
        wait.until(lambda _: text('#classes') or text('#message.error'))
        first = sorted((tmp_path / 'page' / 'samples').iterdir())[0]
        for name in (f'samples/{first.name}', 'large.png'):
            x, _ = Preprocessing(model)(read_image(tmp_path / 'page' / name))
            explanation = model.explain(x[None])
            found = driver.execute_async_script(EXPLAIN, name)
            assert not isinstance(found, str), found
            for values, wanted in zip(found, (explanation.logits, explanation.attention_map)):
                assert (torch.tensor(values) - wanted.flatten()).abs().max() < 1e-4
        assert model.pretrained_cfg['label_names'][0] in text('#classes li')
        driver.find_element('css selector', '#file').send_keys(str(broken))
        wait.until(lambda _: text('#message') == 'broken.png is not an image that this browser can read.')
        driver.find_element('css selector', '#file').send_keys(str(large))
        wait.until(lambda _: text('#classes') and not text('#message'))
        assert all(each.startswith((address, 'blob:', 'data:')) for each in requested(driver))
