import pytest

from timm_abn.staging import check_new_folder, check_output_folder, staged_files, staged_folder


def test_files_appear_together(tmp_path):
    folder = tmp_path / 'new' / 'folder'
    with staged_files(folder) as staging:
        (staging / 'a.txt').write_text('a')
        assert not (folder / 'a.txt').exists()
        (staging / 'b.txt').write_text('b')
    assert sorted(path.name for path in folder.iterdir()) == ['a.txt', 'b.txt']


def test_nothing_is_left_of_a_failure(tmp_path):
    with pytest.raises(RuntimeError), staged_files(tmp_path / 'new' / 'folder') as staging:
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


def test_folder_of_a_failed_block_never_appears(tmp_path):
    with pytest.raises(RuntimeError), staged_folder(tmp_path / 'new' / 'folder') as staging:
        (staging / 'a').write_text('a')
        raise RuntimeError
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(PermissionError, match=f'{tmp_path} must not be written to'):
        check(tmp_path / 'new' / 'folder')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
