"""The site: the reference has all that is public, and mkdocs builds it without a warning."""

import re
import subprocess
import sys

import pytest
from timm_scripts import ROOT

import timm_abn
import timm_abn.explain.metrics
import timm_abn.task

DESCRIBED = {
    path for page in ROOT.glob('docs/api/*.md') for path in re.findall(r'^::: (\S+)', page.read_text(), re.MULTILINE)
}
MODULES = ('__version__',)


def test_all_that_is_public_is_in_the_reference():
    assert {f'timm_abn.{name}' for name in timm_abn.__all__ if name not in MODULES} <= DESCRIBED
    assert {'timm_abn.task', 'timm_abn.explain.metrics'} <= DESCRIBED


def test_metrics_that_are_called_like_their_modules_are_in_the_reference():
    # mkdocstrings takes such a name for the module, and leaves it out
    folder = ROOT / 'timm_abn' / 'explain' / 'metrics'
    names = [name for name in timm_abn.explain.metrics.__all__ if (folder / f'{name}.py').exists()]
    assert names and {f'timm_abn.explain.metrics.{name}.{name}' for name in names} <= DESCRIBED


def test_every_page_is_in_the_navigation():
    pages = {page.relative_to(ROOT / 'docs').as_posix() for page in ROOT.glob('docs/**/*.md')}
    assert pages == set(re.findall(r': (\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE))


@pytest.mark.slow
def test_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs', reason="needs the extra 'docs'")
    pytest.importorskip('mkdocstrings', reason="needs the extra 'docs'")
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / 'site' / 'api' / 'scores' / 'index.html').read_text()
    assert 'lower is better' in text.lower() and 'id="timm_abn.evaluate"' in text
