"""Links of all documents: those inside lead somewhere, those outside have the form of an address."""

import re
from urllib.parse import urlsplit

import pytest
from timm_scripts import ROOT

DOCUMENTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('train_wrappers/*.md')])


def links_of(text):
    """Return the targets of links and pictures, those in code left out."""
    prose = re.sub(r'^```.*?^```|`[^`\n]*`', '', text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r'\]\(([^)\s]*)\)', prose)


def anchors_of(text):
    """Return the anchors of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r'^#+ +(.*)$', re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in headings}


def fault_of(link, document):
    """Return what is wrong with a link, None if nothing is."""
    address = urlsplit(link)
    if address.scheme:
        whole = address.scheme == 'https' and re.fullmatch(r'[\w-]+(\.[\w-]+)+', address.netloc)
        return None if whole else 'is no address'
    target = (document.parent / address.path).resolve() if address.path else document
    if not target.exists():
        return 'leads nowhere'
    if address.fragment and target.suffix == '.md':
        text = target.read_text(encoding='utf-8')
        if included := re.fullmatch(r'--8<-- "(.*)"\s*', text):
            text = (ROOT / included[1]).read_text(encoding='utf-8')
        # anchors of the reference are made of docstrings; mkdocs build --strict checks those
        if address.fragment not in anchors_of(text) and target.parent.name != 'api':
            return 'leads to no heading'
    return None


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links(document):
    links = links_of(document.read_text(encoding='utf-8'))
    faults = {link: fault for link in links if (fault := fault_of(link, document))}
    assert not faults


def test_faults_are_noticed():
    page = ROOT / 'docs' / 'index.md'
    for link in ('nowhere.md', 'trust.md#nothing', 'ftp://example.org', 'https://example', 'http://example.org'):
        assert fault_of(link, page), link
    text = 'see [a](b.md), ![c](d.png) and `[e](f)`\n```\n[g](h)\n```\n'
    assert links_of(text) == ['b.md', 'd.png']
