"""The page as a visitor sees it: a real browser uploads, paints, compares, saves, and is told what is wrong.

TIMM_ABN_PICTURE=docs/app.png keeps the picture of the page that the documentation shows.
"""

import contextlib
import os
import time
import urllib.request
from pathlib import Path, PurePath

import numpy as np
import pytest
import timm
import torch
from browser import CHROMIUM, DRIVER, PATIENCE, requested, running_chromium, running_command, slowness
from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing
from timm_abn.data.masks import read_masks
from timm_abn.data.reading import read_image
from timm_abn.publish.folder import save_hub_folder

pytest.importorskip('gradio', reason="the page needs gradio: pip install 'timm-abn[app]'")
pytest.importorskip('selenium', reason='the test of the page needs selenium')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='the test of the page needs chromium and chromedriver'),
]

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'
SAMPLE = Path(timm_abn.__file__).parent / 'samples' / '6_shirt_00007.png'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('page')


@pytest.fixture(scope='module')
def page(folder):
    torch.manual_seed(0)
    save_hub_folder(timm.create_model('abn_resnet50', num_classes=10), folder / 'resnet50', card='')
    timm.models.save_for_hf(timm.create_model('test_resnet', num_classes=10), folder / 'attached')
    folders = [f'local-dir:{folder / name}' for name in ('resnet50', 'attached')]
    with running_command('--model', MODEL, *folders, folder=folder) as (process, address):
        assert [path.name.startswith('timm-abn-app-') for path in (folder / 'tmp').iterdir()] == [True]
        yield address
    assert process.returncode == 143  # of SIGTERM
    assert not [path for name in ('tmp', 'here') for path in (folder / name).iterdir()]


@pytest.fixture(scope='module')
def visitor(page, folder):
    with running_chromium(folder) as driver:
        driver.get(page)
        yield Visitor(driver)


class Visitor:
    def __init__(self, driver):
        self.driver = driver

    def find(self, selector):
        return self.driver.find_elements('css selector', selector)

    def wait(self, condition, what):
        """Return what a condition gives once it is something, and the seconds that took."""
        from selenium.common.exceptions import StaleElementReferenceException

        start = time.perf_counter()
        while time.perf_counter() - start < PATIENCE:
            with contextlib.suppress(StaleElementReferenceException):  # the page has just replaced it
                if found := condition():
                    return found, time.perf_counter() - start
            time.sleep(0.01)
        raise AssertionError(f'{what}; the page says: {self.driver.find_element("tag name", "body").text}')

    def upload(self, path):
        (inputs, _) = self.wait(lambda: self.find('#upload input[type=file]'), 'nowhere to upload to')
        inputs[0].send_keys(str(path))

    def names(self):
        return [cell.text for cell in self.find('#probabilities td.name')]

    def changes(self):
        return [cell.text for cell in self.find('#probabilities td.change') if cell.text]

    def probabilities(self):
        return [cell.text for cell in self.find('#probabilities td.number')]

    def choose(self, selector, text):
        self.find(f'{selector} input')[0].click()
        options, _ = self.wait(
            lambda: [each for each in self.find('li[role=option]') if text in each.text], f'no {text} to choose'
        )
        options[0].click()

    def source(self, selector):
        return self.find(selector)[0].get_attribute('src')

    def click(self, selector):
        self.driver.execute_script('arguments[0].click()', self.find(selector)[0])

    def stroke(self):
        from selenium.webdriver import ActionChains

        canvas = self.find('#canvas canvas')[0]
        actions = ActionChains(self.driver, duration=40).move_to_element_with_offset(canvas, -110, -40)
        actions.click_and_hold().move_by_offset(110, 60).move_by_offset(90, -30).release().perform()


def settle():
    time.sleep(min(slowness(), 10))


def within(most, seconds, what, slow):
    print(f'{what}: {seconds:.2f} s on a machine that is {slow:.1f} times slower than idle')
    assert seconds < slow * most + 0.2, f'{what} took {seconds:.2f} s, {slow:.1f} times slower than idle'


def test_a_photo_is_explained_and_painted_on(visitor, page):
    visitor.upload(SAMPLE)
    names, seconds = visitor.wait(visitor.names, 'no result')
    within(2.0, seconds, 'upload to result', slowness())
    about = visitor.find('#about')[0].text
    assert about.startswith(f'{MODEL}, weights from this package. Its attention map gates') and 'Paint on it' in about
    model = timm.create_model(MODEL, pretrained=True).eval()
    explanation = model.explain(Preprocessing(model)(read_image(SAMPLE))[0][None])
    labels = timm_abn.class_names(model)
    assert names == [labels[index] for index in explanation.top_k(5)[1][0]]
    visitor.wait(lambda: visitor.find('#canvas canvas') and visitor.find('#beside img'), 'no pictures')
    settle()  # the canvas is ready a moment after it is there
    own_map = visitor.source('#painted img')
    visitor.stroke()
    _, seconds = visitor.wait(visitor.changes, 'the stroke changed nothing')
    within(1.0, seconds, 'stroke to probabilities', slowness())
    before = visitor.changes()
    visitor.click('#keeps label:nth-of-type(2) input')
    changed, _ = visitor.wait(lambda: visitor.changes() != before and visitor.changes(), 'black changed nothing')
    assert any(float(change) for change in changed)
    assert visitor.source('#painted img') != own_map
    elsewhere = [url for url in requested(visitor.driver) if not url.startswith((page, 'data:', 'blob:'))]
    assert not elsewhere


def test_curves_and_files(visitor, folder):
    visitor.click('#draw-curves')
    areas, _ = visitor.wait(lambda: visitor.find('#areas table'), 'no curves')
    assert all(word in areas[0].text for word in ('attention map', 'grad_cam at layer3', 'SRG ↑'))
    visitor.click('#save')
    links, _ = visitor.wait(lambda: visitor.find('#files a[href*="shirt"]'), 'no files')
    addresses = {PurePath(link.get_attribute('href')).name: link.get_attribute('href') for link in links}
    assert len(addresses) == 4
    (folder / 'masks').mkdir()
    mask = folder / 'masks' / SAMPLE.name
    mask.write_bytes(urllib.request.urlopen(addresses[SAMPLE.name]).read())
    found = np.asarray(read_masks(mask.parent).find(PurePath(SAMPLE.name)))
    assert found.shape == (28, 28) and 0 < (found > 0).mean() < 0.6  # what was painted, and no more
    picture = Path(os.environ.get('TIMM_ABN_PICTURE', folder / 'app.png')).absolute()
    visitor.wait(lambda: visitor.find('#curves canvas, #curves svg'), 'no plot')
    settle()
    visitor.driver.save_screenshot(str(folder / 'screen.png'))
    Image.open(folder / 'screen.png').convert('RGB').quantize(256).save(picture, optimize=True)
    assert picture.stat().st_size < 400_000


def test_what_is_refused_is_one_line(visitor, folder):
    names = visitor.names()
    (folder / 'notes.jpg').write_text('no image')
    Image.new('1', (10_000, 5_001)).save(folder / 'huge.png')
    (folder / 'half.png').write_bytes(SAMPLE.read_bytes()[:300])
    (folder / 'heavy.jpg').write_bytes(bytes(27_000_000))
    for said in (
        'notes.jpg is not an image in a supported format',
        'huge.png has 10000 x 5001 pixels, 50.0 million; at most 50 million are taken',
        'half.png cannot be read',
    ):
        visitor.upload(folder / said.split()[0])
        visitor.wait(lambda said=said: said in ''.join(m.text for m in visitor.find('#message .problem')), f'no {said}')
        assert len(visitor.find('#message .problem')) == 1 and visitor.names() == names
    visitor.upload(folder / 'heavy.jpg')
    said = 'exceed the maximum allowed size of 25.0 Mb'
    visitor.wait(lambda: said in visitor.driver.find_element('tag name', 'body').text, 'no line')
    assert visitor.names() == names


def test_another_visitor_sees_nothing_of_it(visitor, page):
    first = visitor.driver.current_window_handle
    visitor.driver.switch_to.new_window('tab')
    visitor.driver.get(page)
    visitor.wait(lambda: visitor.find('#upload input[type=file]'), 'no page')
    settle()
    assert not visitor.names() and not visitor.find('#painted img') and not visitor.find('#files a')
    visitor.click('#samples button.thumbnail-item')
    visitor.wait(visitor.names, 'no result of an example')
    example = visitor.names()
    visitor.driver.close()
    visitor.driver.switch_to.window(first)
    assert visitor.names() != example


def test_a_network_of_the_size_of_resnet_50(visitor, folder):
    names = visitor.names()
    visitor.choose('#model', 'resnet50')
    visitor.wait(lambda: visitor.names() and visitor.names() != names, 'no result of another model')
    photo = folder / 'photo.jpg'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)).save(photo)
    shown = visitor.probabilities()
    visitor.upload(photo)
    _, seconds = visitor.wait(lambda: visitor.probabilities() != shown, 'no result')
    within(2.0, seconds, 'upload to result, ResNet-50', slowness())
    visitor.wait(lambda: visitor.find('#canvas canvas'), 'no canvas')
    settle()
    assert not visitor.changes()  # strokes on the photo before are gone
    visitor.stroke()
    _, seconds = visitor.wait(visitor.changes, 'the stroke changed nothing')
    within(1.0, seconds, 'stroke to probabilities, ResNet-50', slowness())


def test_an_attached_network_shows_each_class_and_paints_nothing(visitor):
    visitor.choose('#model', 'attached')
    visitor.wait(lambda: visitor.find('#map img') and not visitor.find('#canvas'), 'no map')
    about = visitor.find('#about')[0].text
    assert about.startswith('test_resnet, weights from the folder attached. ') and 'nothing to paint' in about
    assert not visitor.find('#painted') and len(visitor.find('#samples img')) == 5
    visitor.wait(lambda: len(visitor.find('#classes img')) == 5, 'no map of each class')
    captions = [each.text for each in visitor.find('#classes .caption-label')]
    assert captions == [f'{name} {p}' for name, p in zip(visitor.names(), visitor.probabilities(), strict=True)]
    before = visitor.source('#map img')
    visitor.click('#classes .gallery-item:nth-of-type(3) button')
    visitor.wait(lambda: visitor.source('#map img') != before, 'the map stayed')
    name = visitor.names()[2]
    assert visitor.find('#target input')[0].get_attribute('value') == name
    assert f'for {name}' in visitor.find('#scale')[0].text
    for width in (1280, 390):
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        visitor.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        assert visitor.driver.execute_script('return document.documentElement.scrollWidth') <= width
    visitor.driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    visitor.choose('#model', MODEL)
    visitor.wait(lambda: visitor.find('#canvas canvas') and not visitor.find('#map'), 'no canvas')
    assert 'Error' not in visitor.driver.find_element('tag name', 'body').text
