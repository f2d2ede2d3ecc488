"""The README, the model cards and CITATION.cff name the same paper and the same software."""

import re
from pathlib import Path

import pytest
import yaml

from timm_abn.publish.model_card import CITATION
from timm_abn.version import __version__

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('page', ['README.md', 'MODEL_CARDS.md'])
def test_one_bibtex(page):
    assert re.findall(r'```bibtex\n(.*?)\n```', (ROOT / page).read_text(encoding='utf-8'), re.DOTALL) == [CITATION]


def test_citation_file():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    paper = citation['preferred-citation']
    authors = ' and '.join(f'{author["family-names"]}, {author["given-names"]}' for author in paper['authors'])
    for field in (paper['title'], authors, paper['collection-title'], f'{paper["start"]}--{paper["end"]}'):
        assert f'{{{field}}}' in CITATION
    assert f'year={{{paper["year"]}}}' in CITATION
    assert f'title={{{citation["title"]}}}' in CITATION and citation['authors'][0]['name'] in CITATION
    assert citation['version'] == __version__ and citation['license'] == 'Apache-2.0'
