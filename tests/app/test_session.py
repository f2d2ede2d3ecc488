"""What a visitor sees of a photo, beside what the library says of it."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny_models import tiny_attached

from timm_abn import TimmAbnError
from timm_abn.app.curves import curves_of
from timm_abn.app.models import OfferedModels, ServedModel, models_with_weights
from timm_abn.app.painting import write_files
from timm_abn.app.photos import Photo
from timm_abn.app.session import (
    MAPS,
    class_kind,
    draw_kind,
    draw_map,
    first_map,
    map_of,
    maps_of,
    method_map,
    open_session,
    prepare,
    scale_of,
    top_classes,
)
from timm_abn.data.images import draw_overlay
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion, symmetric_relevance_gain
from timm_abn.maps.operations import normalize_maps

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'


@pytest.fixture(scope='module')
def photo(photo_of):
    return photo_of('photo.png', 90, 60)


@pytest.fixture(scope='module')
def session(photo, served):
    return opened(photo, served)


def opened(photo, served):
    return open_session(photo, served, *prepare(served, photo, photo.picture))


def test_the_prediction_is_that_of_the_model(photo, session, served):
    x, box = served.preprocessing(photo.picture)
    expected = served.model.explain(x[None])
    torch.testing.assert_close(session.probabilities, expected.probabilities[0])
    assert session.box == box and session.size == (90, 60) and session.shown.size == (512, 341)
    assert top_classes(session, 3) == expected.top_k(3)[1][0].tolist()
    assert torch.equal(map_of(session, served, MAPS[0]), session.explanation.attention_map)
    classes = torch.tensor([4])
    class_map = session.explanation.class_map(classes)
    values = map_of(session, served, MAPS[1], 4)
    torch.testing.assert_close(values, class_map - class_map.mean())
    drawn = draw_map(session, values.relu())  # what speaks for the class more than the mean place
    assert np.array_equal(draw_kind(session, served, MAPS[1], 4), drawn)
    assert served.title('class_map') == 'class_map at layer2' and served.title('grad_cam') == 'grad_cam at layer3'
    assert torch.equal(map_of(session, served, MAPS[2], 4), session.explanation.contrast_map(classes))


def test_the_overlay_in_the_size_of_the_photo_is_that_of_the_command(photo, session, served):
    values = map_of(session, served, MAPS[0])
    expected = draw_overlay(photo.picture, normalize_maps(values), session.box)
    assert np.array_equal(draw_map(session, values, full_size=True), expected)
    assert draw_map(session, values).size == session.shown.size


def test_of_a_large_photo_the_model_sees_all_and_a_picture_is_kept(served, photo_of):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 3000, 3), dtype=np.uint8))
    photo = Photo.of('large.png', pixels)
    session = open_session(photo, served, *prepare(served, photo, pixels))
    x, box = served.preprocessing(pixels)
    assert torch.equal(session.x, x[None]) and session.box == box and session.size == (3000, 1500)
    assert draw_map(session, map_of(session, served, MAPS[0]), full_size=True).size == (1024, 512)
    held = (session.photo.picture, session.shown)
    assert sum(len(image.tobytes()) for image in held) < 3 * 2**20  # of 13 MB
    _, again = prepare(served, photo, photo.picture)  # of another model that is chosen later
    assert max(abs(before - after) for before, after in zip(box, again)) <= 3


def test_methods_and_curves(session, served):
    assert list(served.explainers) == ['grad_cam', 'recipro_cam', 'class_map']
    values = method_map(session, served, 'grad_cam', 3)
    targets = torch.tensor([3])
    expected = create_explainer('grad_cam', served.model)(session.x, targets)
    torch.testing.assert_close(values, expected)
    values = session.explanation.attention_map  # Grad-CAM of a class that is not predicted may be flat
    curves = curves_of(session, served, values, 3, steps=4)
    assert curves.fractions == [0, 0.25, 0.5, 0.75, 1]
    assert curves.deletion_area == pytest.approx(deletion(served.model, session.x, values, targets, 4).item(), abs=1e-5)
    area = insertion(served.model, session.x, values, targets, 4).item()
    assert curves.insertion_area == pytest.approx(area, abs=1e-5)
    gain = symmetric_relevance_gain(served.model, session.x, values, targets, 4).item()
    assert curves.gain == pytest.approx(gain, abs=1e-5)
    assert curves.insertion[0] == curves.deletion[-1] and curves.insertion[-1] == curves.deletion[0]
    assert curves.deletion[0] == pytest.approx(session.probabilities[3].item(), abs=1e-5)
    assert curves_of(session, served, torch.zeros_like(values)) is None


def test_of_several_tasks_the_most_probable_or_the_chosen(photo):
    torch.manual_seed(0)
    served = ServedModel(timm.create_model('abn', backbone='test_resnet', num_classes=4, multi_task=True).eval())
    session = opened(photo, served)
    best = int(session.probabilities.argmax())
    assert torch.equal(map_of(session, served, MAPS[0]), session.explanation.attention_map[:, best : best + 1])
    assert torch.equal(map_of(session, served, MAPS[0], 1), session.explanation.attention_map[:, 1:2])
    with pytest.raises(TimmAbnError, match='there is no contrast between them'):
        map_of(session, served, MAPS[2])


@pytest.mark.parametrize('is_refined', [False, True])
def test_an_attached_network_shows_the_map_of_each_class_and_is_not_painted_on(photo, is_refined, tmp_path):
    model = tiny_attached('test_resnet', refined=is_refined)
    if is_refined:
        torch.nn.init.normal_(model.refinement.out.weight)
    served = ServedModel(model)
    session = opened(photo, served)
    kind = first_map(served)
    assert not served.is_painted and maps_of(served) == MAPS[0 if is_refined else 1 : 3]
    assert kind == maps_of(served)[0] == class_kind(session, served)
    colormap, ends, words = scale_of(session, served, kind, 1)
    assert (colormap, ends) == ('viridis', ('0 or less', 'greatest')) and f'for {served.class_names[1]}' in words
    assert scale_of(session, served, MAPS[2], 1)[:2] == ('coolwarm', ('against class 1', '0', 'for class 1'))
    for target in (0, 1):
        explanation = model.explain(session.x, torch.tensor([target]))
        values = map_of(session, served, kind, target)
        torch.testing.assert_close(values, explanation.explaining_map(torch.tensor([target])), rtol=1e-4, atol=1e-4)
        assert np.array_equal(draw_kind(session, served, kind, target), draw_map(session, values.relu()))
    paths = write_files(session, served, None, tmp_path, kind, 1)
    assert [path.name for path in paths] == ['photo.overlay.png', 'photo.map.npy']


def test_what_is_offered():
    assert models_with_weights()[:2] == [MODEL, 'abn_resnet20_cifar.fashion_mnist']
    offered = OfferedModels(models_with_weights())
    assert offered.load(MODEL) is offered.load(MODEL)
    assert (offered.load(MODEL).name, offered.load(MODEL).source) == (MODEL, 'this package')
    with pytest.raises(TimmAbnError, match='abn_resnet50 is not offered here; there are abn_resnet20_cifar.fashion'):
        offered.load('abn_resnet50')
    with pytest.raises(TimmAbnError, match='of one model; 2 are named'):
        OfferedModels(['abn_resnet18', 'abn_resnet34'], num_classes=3)
    with pytest.raises(TimmAbnError, match='ResNet has no attention map'):
        ServedModel(timm.create_model('test_resnet').eval())


@pytest.mark.parametrize(('in_chans', 'examples'), [(3, ['astronaut', 'camera', 'cat', 'coffee', 'rocket']), (1, [])])
def test_examples_are_photos_that_fit_the_model(served, in_chans, examples):
    model = timm.create_model('abn', backbone='test_resnet', in_chans=in_chans, num_classes=3).eval()
    assert [path.stem for path in ServedModel(model).examples] == examples
    assert len(served.examples) == 20 and all(path.parent.name == 'samples' for path in served.examples)


def test_where_weights_come_from_without_folders(tmp_path):
    model = timm.create_model('test_resnet', num_classes=4)
    timm.models.save_for_hf(model, tmp_path / 'birds', safe_serialization=True)
    torch.save(model.state_dict(), tmp_path / 'best.pth')
    address = f'local-dir:{tmp_path / "birds"}'
    served = OfferedModels([address]).load(address)
    assert (served.name, served.source) == ('test_resnet', 'the folder birds')
    served = OfferedModels(['test_resnet'], tmp_path / 'best.pth').load('test_resnet')
    assert (served.name, served.source) == ('test_resnet', 'best.pth')
