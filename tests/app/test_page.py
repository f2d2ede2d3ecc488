"""What the page computes, without a browser."""

import shutil
import time

import pytest
import timm
import torch

pytest.importorskip('gradio', reason="the page needs gradio: pip install 'timm-abn[app]'")

from timm_abn.app import page
from timm_abn.app.models import OfferedModels
from timm_abn.examples import example_photos


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*does not say how images were prepared')
def test_a_photo_takes_less_than_a_second(tmp_path, monkeypatch):
    name, pages = 'tf_efficientnet_lite0', []
    torch.save(timm.create_model(name).state_dict(), tmp_path / 'weights.pth')
    monkeypatch.setattr(page, '_Page', lambda *args, page=page._Page: pages.append(page(*args)))
    page.build_page(OfferedModels([name], tmp_path / 'weights.pth'))
    (built,) = pages
    photo = shutil.copy(example_photos()['cat'], tmp_path)
    start = time.process_time()  # not the clock: other tests may run
    shown = built.open_upload(photo, name, None)
    assert time.process_time() - start < 1
    assert built.parts.message in shown and shown[built.parts.session].shown.size == (512, 341)
