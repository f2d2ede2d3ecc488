"""Which images there are in folders: as many as timm finds, links followed, and nothing that is none."""

import os
from pathlib import Path

import pytest
from PIL import Image
from timm.data.readers import reader_image_folder as timm_folder

from timm_abn import TimmAbnError
from timm_abn.data.sources import find_images, find_sources
from timm_abn.data.timm_images import find_images_and_targets


@pytest.fixture
def folder(tmp_path):
    for name in ('plain/ant/1.png', 'plain/ant/2.jpg', 'plain/bee/10.png', 'plain/bee/9.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 4)).save(path)
    return tmp_path


def test_links_are_followed_as_timm_does(folder, caplog):
    linked = folder / 'linked'
    linked.mkdir()
    (linked / 'ant').symlink_to(folder / 'plain' / 'ant')
    (linked / 'wasp').symlink_to(folder / 'plain' / 'bee')
    (linked / 'ant' / '3.jpg').symlink_to('2.jpg')
    timms = timm_folder.find_images_and_targets(str(linked))
    assert find_images_and_targets(timm_folder.find_images_and_targets, str(linked)) == timms and len(timms[0]) == 5
    assert [str(path) for path in find_images(linked)] == sorted(path for path, _ in timms[0])
    assert len(find_sources([linked])) == 5
    assert caplog.messages == ['1 of 5 images are links to others, and count as images.'] * 2


def test_loops_of_links_end(folder):
    (folder / 'plain' / 'ant' / 'up').symlink_to('..')
    (folder / 'plain' / 'bee' / 'self').symlink_to('.')
    (folder / 'plain' / 'bee' / 'other').symlink_to(folder / 'plain' / 'ant')
    found = [path.relative_to(folder / 'plain').as_posix() for path in find_images(folder / 'plain')]
    assert found == ['ant/1.png', 'ant/2.jpg', 'bee/10.png', 'bee/9.png', 'bee/other/1.png', 'bee/other/2.jpg']


def test_what_is_no_photo(folder):
    plain = folder / 'plain'
    for name in ('ant/._1.png', '.ipynb_checkpoints/1-checkpoint.png', 'ant/1.overlay.png', 'ant/notes.txt', '.a.jpg'):
        (plain / name).parent.mkdir(exist_ok=True)
        (plain / name).write_bytes(b'no image')
    os.mkfifo(plain / 'ant' / 'pipe.png')  # opening it would wait
    (plain / 'ant' / 'lost.png').symlink_to('nowhere.png')  # one that is lost is not passed over
    names = ['ant/1.png', 'ant/2.jpg', 'ant/lost.png', 'bee/10.png', 'bee/9.png']
    assert [path.relative_to(plain).as_posix() for path in find_images(plain)] == names
    found, classes = find_images_and_targets(timm_folder.find_images_and_targets, str(plain))
    assert classes == {'ant': 0, 'bee': 1} and [target for _, target in found] == [0, 0, 0, 1, 1]
    assert [path for path, _ in found][3:] == [str(plain / 'bee' / name) for name in ('9.png', '10.png')]
    assert find_images(plain, ['.TXT']) == [plain / 'ant' / 'notes.txt']


def test_what_is_named_twice_is_taken_once_and_said(folder, caplog):
    plain = folder / 'plain'
    sources = find_sources([plain / 'ant' / '1.png', plain, plain / '..' / 'plain' / 'bee', plain])
    assert len(sources) == 4 and sources[0].named
    assert caplog.messages == ['7 images were named more than once and are used once.']
    with pytest.raises(TimmAbnError, match='there are no images in'):
        find_sources([Path(folder / 'plain' / 'ant'), *[path for path in [folder / 'none'] if path.mkdir() is None]])
