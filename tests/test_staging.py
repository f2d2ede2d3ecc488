import errno
import os
import resource
import stat
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file

from timm_abn import staging
from timm_abn.staging import (
    check_new_folder,
    check_output_file,
    check_output_folder,
    staged_file,
    staged_files,
    staged_folder,
)


def test_files_appear_together(tmp_path):
    folder = tmp_path / 'new' / 'folder'
    with staged_files(folder) as staging:
        (staging / 'a.txt').write_text('a')
        assert not (folder / 'a.txt').exists()
        (staging / 'b.txt').write_text('b')
    assert sorted(path.name for path in folder.iterdir()) == ['a.txt', 'b.txt']


@pytest.mark.parametrize('staged', [staged_files, staged_folder])
def test_nothing_is_left_of_a_failure(tmp_path, staged):
    with pytest.raises(RuntimeError), staged(tmp_path / 'new' / 'folder') as staging:
        (staging / 'a.txt').write_text('half')
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_existing_files_survive_a_failure_and_are_replaced_by_success(tmp_path):
    (tmp_path / 'a.txt').write_text('old')
    (tmp_path / 'other.txt').write_text('other')
    with pytest.raises(RuntimeError), staged_files(tmp_path) as staging:
        (staging / 'a.txt').write_text('half')
        raise RuntimeError
    assert (tmp_path / 'a.txt').read_text() == 'old'
    with staged_files(tmp_path) as staging:
        (staging / 'a.txt').write_text('new')
    assert (tmp_path / 'a.txt').read_text() == 'new'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.txt', 'other.txt']


def test_folder_appears_whole(tmp_path):
    folder = tmp_path / 'new' / 'folder'
    with staged_folder(folder) as staging:
        (staging / 'a').write_text('a')
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ['a']
    assert list(folder.parent.iterdir()) == [folder]


def test_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / 'folder').mkdir()
    with staged_folder(tmp_path / 'folder') as staging:  # an empty one is as good as none
        (staging / 'a').write_text('first')
    for taken in (tmp_path / 'folder', tmp_path / 'folder' / 'a'):
        with pytest.raises(FileExistsError, match='choose a new folder'), staged_folder(taken) as staging:
            (staging / 'a').write_text('second')
    assert (tmp_path / 'folder' / 'a').read_text() == 'first'


@pytest.mark.parametrize('check', [check_output_folder, check_new_folder])
def test_folder_that_cannot_be_made(tmp_path, monkeypatch, check):
    (tmp_path / 'file').touch()
    check(tmp_path / 'new' / 'folder')
    with pytest.raises(NotADirectoryError, match='file is a file, not a folder to write into'):
        check(tmp_path / 'file' / 'new' / 'folder')
    monkeypatch.setattr('os.access', lambda path, mode: False)
    with pytest.raises(PermissionError, match=f'{tmp_path} is not writable'):
        check(tmp_path / 'new' / 'folder')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_link_stays_and_leads_to_the_new_file(tmp_path):
    (tmp_path / 'real').mkdir()
    real, link = tmp_path / 'real' / 'a.csv', tmp_path / 'a.csv'
    real.write_text('old')
    real.chmod(0o640)
    link.symlink_to('real/a.csv')
    with staged_file(link) as staged:
        staged.write_text('new')
        assert real.read_text() == 'old'
    with staged_files(tmp_path) as folder:
        (folder / 'b.csv').write_text('b')
        assert link.is_symlink() and real.read_text() == 'new'
        (folder / 'a.csv').write_text('newest')
    assert link.is_symlink() and real.read_text() == 'newest' and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / 'real').iterdir()] == ['a.csv']


def test_what_is_no_regular_file_gets_the_content(tmp_path, capfd):
    os.mkfifo(tmp_path / 'pipe')
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / 'pipe').read_text()))
    reader.start()
    for path in (tmp_path / 'pipe', '/dev/stdout'):
        check_output_file(path)
        print('before', flush=False)
        with staged_file(path) as staged:
            staged.write_text('rows\n')
    reader.join(10)
    assert found == ['rows\n'] and stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)
    assert capfd.readouterr().out == 'before\nbefore\nrows\n' and not list(tmp_path.glob('.*'))


# staging alone, without the package, which takes seconds
HOLDS = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location('staging', sys.argv[1])
staging = importlib.util.module_from_spec(spec)
spec.loader.exec_module(staging)
with staging.staged_files(sys.argv[2]) as folder:
    (folder / 'half').write_text('half')
    print('begun', flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize('check', [check_output_folder, check_new_folder])
def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path, check):
    (tmp_path / '.partial-of-others').touch()
    process = subprocess.Popen([sys.executable, '-c', HOLDS, staging.__file__, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'begun\n'
    check_output_folder(tmp_path)
    assert len(list(tmp_path.rglob('half'))) == 1
    process.kill()
    process.communicate()
    (tmp_path / '.partial-of-others').unlink()
    check(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'write',
    [
        lambda path: torch.save(torch.zeros(10**5), path),
        lambda path: save_file({'a': torch.zeros(10**5)}, path),
        lambda path: path.write_bytes(bytes(10**6)),
    ],
)
def test_a_file_that_cannot_be_written_says_why_and_where(tmp_path, write):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(OSError) as caught, staged_files(tmp_path / 'out') as folder:
            write(folder / 'file')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename in (str(tmp_path / 'out'), None)
    assert not list(tmp_path.iterdir())


def test_files_are_on_the_disk_before_they_appear(tmp_path, monkeypatch):
    done = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr('os.replace', lambda a, b: (done.append('appears'), replace(a, b)))
    monkeypatch.setattr('os.fsync', lambda file: (done.append(os.fstat(file).st_ino), fsync(file)))
    with staged_files(tmp_path) as folder:
        (folder / 'sub').mkdir()
        (folder / 'sub' / 'a').write_text('a')
    file, place = (tmp_path / 'sub' / 'a', tmp_path / 'sub')
    assert done == [file.stat().st_ino, 'appears', place.stat().st_ino]


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / 'link').symlink_to('nowhere')
    with pytest.raises(NotADirectoryError, match='link is a broken link, not a folder'):
        check_output_folder(tmp_path / 'link' / 'out')
