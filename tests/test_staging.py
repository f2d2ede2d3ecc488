import pytest

from timm_abn.staging import staged_files


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
