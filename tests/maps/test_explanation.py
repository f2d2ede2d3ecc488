import dataclasses

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from PIL import Image

import timm_abn
from timm_abn.maps.colormaps import colormap_table
from timm_abn.maps.explanation import Explanation, MultiTaskExplanation
from timm_abn.maps.operations import blend_maps, centre_maps, normalize_maps, upsample_maps


def make(attention_map, num_classes=4):
    batch = len(attention_map)
    return Explanation(
        logits=torch.arange(batch * num_classes).float().reshape(batch, num_classes),
        attention_map=attention_map,
        attention_logits=torch.zeros(batch, num_classes),
        class_maps=torch.rand(batch, num_classes, *attention_map.shape[2:]),
    )


@pytest.fixture
def explanation():
    torch.manual_seed(0)
    return make(torch.rand(3, 1, 7, 5))


def test_of_a_model():
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=5).eval()
    explanation = model.explain(torch.randn(2, 3, 64, 64))
    overlay = explanation.overlay(torch.rand(2, 3, 64, 64))
    assert overlay.shape == (2, 3, 64, 64) and overlay.min() >= 0 and overlay.max() <= 1


@pytest.mark.parametrize('size', [(28, 28), (31, 50), (7, 5), (8, 5)])
@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_upsample_equals_float64_interpolation(explanation, size, mode):
    maps = explanation.attention_map.double()
    expected = F.interpolate(maps, size, mode=mode, align_corners=False).clamp(maps.min(), maps.max())
    expected = torch.maximum(torch.minimum(expected, maps.amax((2, 3), True)), maps.amin((2, 3), True))
    torch.testing.assert_close(explanation.upsample(size, mode).double(), expected, rtol=0, atol=1e-6)


def test_bicubic_stays_in_the_range_of_each_map():
    maps = torch.zeros(2, 1, 6, 6)
    maps[0, 0, 2:4, 2:4] = 1
    maps[1, 0, :, :3] = 0.25
    raw = F.interpolate(maps, (60, 60), mode='bicubic', align_corners=False)
    assert raw[0].max() > 1 and raw[1].min() < 0  # so that there is something to clamp
    upsampled = upsample_maps(maps, (60, 60), 'bicubic')
    assert upsampled[0].max() == 1 and upsampled[0].min() == 0
    assert upsampled[1].max() == 0.25 and upsampled[1].min() == 0


@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_shrinking_averages_and_does_not_pick(mode):
    maps = torch.zeros(1, 1, 16, 16)
    maps[..., 1] = 1  # not one of the pixels that would be picked
    small = upsample_maps(maps, (2, 2), mode)
    assert (small[..., 0] > 0.05).all() and (small[..., 1] < 0.02).all()


def test_half_precision_and_several_maps_per_image():
    maps = torch.rand(2, 3, 4, 4).bfloat16()
    upsampled = upsample_maps(maps, (9, 9))
    assert upsampled.shape == (2, 3, 9, 9) and upsampled.dtype == torch.float32
    assert normalize_maps(maps).amax((2, 3)).eq(1).all()


def test_normalize_stretches_each_map_by_itself():
    maps = torch.tensor([[0.2, 0.4, 0.6], [100.0, 150.0, 300.0]]).reshape(2, 1, 1, 3)
    expected = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.25, 1.0]]).reshape(2, 1, 1, 3)
    torch.testing.assert_close(normalize_maps(maps), expected)


def test_normalize_in_a_given_range_compares_maps():
    maps = torch.tensor([[0.2, 0.4, 0.6], [-3.0, 1.0, 4.0]]).reshape(2, 1, 1, 3)
    expected = torch.tensor([[0.3, 0.35, 0.4], [0.0, 0.5, 1.0]]).reshape(2, 1, 1, 3)
    torch.testing.assert_close(normalize_maps(maps, (-1.0, 3.0)), expected)
    assert normalize_maps(maps, (0.5, 0.5)).eq(0).all()


def test_centred_maps_keep_their_sign():
    maps = torch.tensor([[-1.0, 0.0, 4.0], [0.0, 0.0, 0.0], [-2.0, -1.0, 0.0]]).reshape(3, 1, 1, 3)
    expected = torch.tensor([[0.375, 0.5, 1.0], [0.5, 0.5, 0.5], [0.0, 0.25, 0.5]]).reshape(3, 1, 1, 3)
    torch.testing.assert_close(centre_maps(maps), expected)
    overlay = make(maps).overlay(torch.zeros(3, 3, 1, 3), alpha=1.0, colormap='coolwarm')
    table = colormap_table('coolwarm') / 255
    levels = torch.tensor([[96, 128, 255], [128, 128, 128], [0, 64, 128]])
    torch.testing.assert_close(overlay[:, :, 0].mT, table[levels])


# three classes on 1 x 2 places of two images; class 2 is predicted of the first, class 0 of the second
CLASS_MAPS = torch.tensor(
    [[[1.0, 2.0], [3.0, -1.0], [6.0, 0.5]], [[8.0, 1.0], [2.0, 4.0], [-4.0, 2.0]]], dtype=torch.float64
).unsqueeze(2)


def of_class_maps(class_maps, kind=Explanation):
    logits = class_maps.mean(dim=(2, 3))
    return kind(logits=logits, attention_map=class_maps[:, :1], attention_logits=logits, class_maps=class_maps)


def test_contrast_is_the_class_map_less_the_mean_of_the_others():
    explanation = of_class_maps(CLASS_MAPS)
    # 6 - (1 + 3) / 2, 0.5 - (2 - 1) / 2; 8 - (2 - 4) / 2, 1 - (4 + 2) / 2
    predicted = torch.tensor([[4.0, 0.0], [9.0, -2.0]], dtype=torch.float64).reshape(2, 1, 1, 2)
    torch.testing.assert_close(explanation.contrast_map(), predicted, rtol=0, atol=1e-15)
    # 3 - (1 + 6) / 2, -1 - (2 + 0.5) / 2; -4 - (8 + 2) / 2, 2 - (1 + 4) / 2
    chosen = torch.tensor([[-0.5, -2.25], [-9.0, -0.5]], dtype=torch.float64).reshape(2, 1, 1, 2)
    torch.testing.assert_close(explanation.contrast_map(torch.tensor([1, 2])), chosen, rtol=0, atol=1e-15)
    torch.testing.assert_close(explanation.class_map(), CLASS_MAPS[[0, 1], [2, 0]].unsqueeze(1))
    torch.testing.assert_close(explanation.class_map(torch.tensor([1, 2])), CLASS_MAPS[[0, 1], [1, 2]].unsqueeze(1))
    half = of_class_maps(CLASS_MAPS.bfloat16())
    assert half.contrast_map().dtype == torch.float32


def test_contrast_does_not_change_with_what_all_classes_have():
    shared = torch.tensor([[100.0, -50.0]], dtype=torch.float64)
    shifted = of_class_maps(CLASS_MAPS + shared)
    torch.testing.assert_close(shifted.probabilities, of_class_maps(CLASS_MAPS).probabilities)
    torch.testing.assert_close(shifted.contrast_map(), of_class_maps(CLASS_MAPS).contrast_map())
    equal = of_class_maps(torch.rand(2, 1, 4, 4).expand(2, 7, 4, 4))
    assert equal.contrast_map().eq(0).all()


@pytest.mark.parametrize(
    ('explanation', 'classes', 'message'),
    [
        (of_class_maps(CLASS_MAPS), torch.tensor([0, 3]), r'one index from 0 to 2 for each of 2 images, got \[0, 3\]'),
        (of_class_maps(CLASS_MAPS), torch.tensor([0]), r'for each of 2 images, got \[0\]'),
        (dataclasses.replace(of_class_maps(CLASS_MAPS), exclusive=False), None, 'labels or tasks .* do not exclude'),
        (dataclasses.replace(of_class_maps(CLASS_MAPS), class_maps=None), None, 'the model has no class maps'),
        (of_class_maps(CLASS_MAPS, MultiTaskExplanation), None, 'do not exclude each other'),
    ],
)
def test_where_there_is_no_contrast(explanation, classes, message):
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        explanation.contrast_map(classes)


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0, 1e4])
def test_a_flat_map_is_zero_and_never_nan(value):
    maps = torch.full((1, 1, 4, 4), value)
    rounding = maps * (1 + 1e-7 * torch.randn(4, 4, generator=torch.manual_seed(0)))
    for flat in (maps, rounding):
        assert normalize_maps(flat).eq(0).all()
        overlay = make(flat).overlay(torch.full((1, 3, 8, 8), 0.5), alpha=1.0)
        torch.testing.assert_close(overlay[0, :, 0, 0], colormap_table('viridis')[0] / 255)
        assert overlay.isfinite().all()


def test_a_map_of_nan_gives_no_nan():
    for normalize in (True, False):
        overlay = make(torch.full((1, 1, 4, 4), float('nan'))).overlay(torch.rand(1, 3, 8, 8), normalize=normalize)
        assert overlay.isfinite().all()


def test_overlay_equals_a_slow_one(explanation):
    images = torch.rand(3, 3, 14, 10)
    overlay = explanation.overlay(images, alpha=0.3, colormap='inferno')
    maps = F.interpolate(explanation.attention_map.double(), (14, 10), mode='bilinear', align_corners=False).numpy()
    table = colormap_table('inferno').numpy()
    native = explanation.attention_map.numpy()
    for index in range(3):
        shown = (maps[index, 0] - native[index].min()) / (native[index].max() - native[index].min())
        for row, column in [(0, 0), (6, 4), (13, 9), (3, 7)]:
            color = table[round(shown[row, column] * 255)] / 255
            expected = 0.7 * images[index, :, row, column].numpy() + 0.3 * color
            np.testing.assert_allclose(overlay[index, :, row, column].numpy(), expected, atol=0.011)


def test_overlay_of_bytes_and_of_grey_images(explanation):
    images = torch.randint(0, 256, (3, 1, 14, 10), dtype=torch.uint8)
    overlay = explanation.overlay(images, alpha=0.3)
    assert overlay.dtype == torch.uint8 and overlay.shape == (3, 3, 14, 10)
    torch.testing.assert_close(overlay / 255, explanation.overlay(images / 255, alpha=0.3), rtol=0, atol=0.501 / 255)
    torch.testing.assert_close(overlay, explanation.overlay(images.expand(3, 3, 14, 10), alpha=0.3))


def test_overlay_of_raw_values_is_comparable(explanation):
    images = torch.zeros(3, 3, 7, 5)
    overlay = explanation.overlay(images, alpha=1.0, normalize=False)
    levels = (explanation.attention_map[:, 0] * 255).round().long()
    torch.testing.assert_close(overlay, colormap_table('viridis')[levels].permute(0, 3, 1, 2) / 255)


def test_overlay_of_a_class_map(explanation):
    images = torch.rand(3, 3, 14, 10)
    shown = explanation.overlay(images, maps=explanation.class_maps[:, [2]])
    torch.testing.assert_close(shown, make(explanation.class_maps[:, [2]]).overlay(images))


def test_top_k_equals_sorted_softmax():
    logits = torch.randn(4, 6, generator=torch.manual_seed(0))
    explanation = dataclasses.replace(make(torch.rand(4, 1, 2, 2)), logits=logits)
    probabilities, indices = explanation.top_k(3)
    exponentials = logits.double().exp()
    for row in range(4):
        order = sorted(range(6), key=lambda k: -logits[row, k].item())[:3]
        assert indices[row].tolist() == order
        expected = exponentials[row, order] / exponentials[row].sum()
        torch.testing.assert_close(probabilities[row].double(), expected, rtol=1e-6, atol=0)
    assert explanation.top_k(50)[0].shape == (4, 6)


def test_indexing_keeps_the_batch_dimension(explanation):
    assert len(explanation) == 3
    torch.testing.assert_close(explanation[-1].logits, explanation.logits[2:])
    assert explanation[1:].attention_map.shape == (2, 1, 7, 5)
    assert [one.class_maps.shape for one in explanation] == [(1, 4, 7, 5)] * 3
    with pytest.raises(IndexError):
        explanation[3]


@pytest.mark.parametrize(
    'index, rows',
    [
        (np.int64(1), [1]),
        (torch.tensor(-1), [2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ([], []),
        (np.array([1], dtype=np.uint8), [1]),
        (torch.tensor([2]), [2]),
        (torch.tensor([True, False, True]), [0, 2]),
        ([False] * 3, []),
    ],
)
def test_whatever_chooses_images_keeps_the_batch_dimension(explanation, index, rows):
    chosen = explanation[index]
    assert chosen.logits.tolist() == [explanation.logits.tolist()[row] for row in rows]
    assert chosen.attention_map.shape == (len(rows), 1, 7, 5)


@pytest.mark.parametrize('index', [None, 1.5, 'a', (0, slice(2)), [True], torch.ones(1, 1), torch.tensor([0.5])])
def test_what_chooses_no_images(explanation, index):
    with pytest.raises(timm_abn.TimmAbnError, match=r'a list of indices or a mask of 3, got'):
        explanation[index]


def test_save_writes_overlays_and_tensors(explanation, tmp_path):
    images = torch.rand(3, 3, 14, 10)
    paths = explanation.save(tmp_path / 'out', images, names=['a', 'b', 'c'], colormap='magma')
    assert [path.name for path in paths] == ['a.png', 'b.png', 'c.png']
    expected = explanation.overlay(images, colormap='magma')
    for path, overlay in zip(paths, expected, strict=True):
        with Image.open(path) as image:
            np.testing.assert_allclose(np.asarray(image), overlay.permute(1, 2, 0) * 255, atol=1)
    loaded = safetensors.torch.load_file(tmp_path / 'out' / 'explanation.safetensors')
    tensors = {field.name for field in dataclasses.fields(Explanation)} - {
        'map_gates',
        'exclusive',
        'explained_by',
        'classes',
    }
    assert set(loaded) == tensors
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, getattr(explanation, name))


def test_save_leaves_nothing_of_a_failure(explanation, tmp_path, monkeypatch):
    saved = []

    def full_disk(self, path):
        saved.append(path)
        if len(saved) == 2:
            raise OSError('No space left on device')
        path.write_bytes(b'')

    monkeypatch.setattr(Image.Image, 'save', full_disk)
    with pytest.raises(OSError, match='No space'):
        explanation.save(tmp_path / 'out', torch.rand(3, 3, 14, 10))
    assert len(saved) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda e: e.upsample((8, 8), 'nearest'), "one of 'bilinear', 'bicubic', got 'nearest'"),
        (lambda e: e.upsample((0, 8)), r'positive height and width, got \(0, 8\)'),
        (lambda e: e.top_k(0), 'k must be 1 or more, got 0'),
        (lambda e: e.overlay(torch.rand(2, 3, 8, 8)), r'got \(2, 3, 8, 8\) and \(3, 1, 7, 5\)'),
        (lambda e: e.overlay(torch.rand(3, 2, 8, 8)), r'\(B, 3, H, W\) or \(B, 1, H, W\)'),
        (lambda e: e.overlay(torch.rand(3, 3, 8, 8) * 2 - 1), 'denormalize'),
        (lambda e: e.overlay(torch.ones(3, 3, 8, 8).int()), 'got torch.int32'),
        (lambda e: e.overlay(torch.rand(3, 3, 8, 8), alpha=2), r'alpha must be in \[0, 1\], got 2'),
        (lambda e: e.overlay(torch.rand(3, 3, 8, 8), colormap='jet'), "got 'jet'"),
        (lambda e: e.save('x', torch.rand(3, 3, 8, 8), names=['a', 'a', 'b']), '3 different ones'),
        (lambda e: e.save('x', torch.rand(3, 3, 8, 8), names=['a', '../b', 'c']), 'without a folder'),
    ],
)
def test_wrong_arguments(explanation, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        call(explanation)
    assert '\n' not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match='got'):
        blend_maps(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_stays_on_the_device(explanation):
    on_gpu = Explanation(**{f.name: getattr(explanation, f.name).cuda() for f in dataclasses.fields(explanation)})
    images = torch.rand(3, 3, 14, 10)
    overlay = on_gpu.overlay(images.cuda())
    assert overlay.is_cuda and on_gpu.upsample((9, 9)).is_cuda and on_gpu.top_k(2)[0].is_cuda
    torch.testing.assert_close(overlay.cpu(), explanation.overlay(images), rtol=0, atol=0.01)


@pytest.fixture
def multi_task_explanation():
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 7, 5) * 4 - 2
    return MultiTaskExplanation(
        logits=torch.tensor([[0.0, 2.0, -1.0], [3.0, -3.0, 1.0]]),
        attention_map=maps,
        attention_logits=maps.mean(dim=(2, 3)),
        class_maps=maps,  # as of raw maps: one tensor in two places
    )


def test_tasks_are_ranked_by_their_own_probability(multi_task_explanation):
    probabilities, indices = multi_task_explanation.top_k(2)
    assert indices.tolist() == [[1, 0], [0, 2]]
    torch.testing.assert_close(probabilities[0], torch.tensor([0.8807971, 0.5]))


def test_one_of_several_maps_must_be_chosen(multi_task_explanation):
    images = torch.rand(2, 3, 14, 10)
    with pytest.raises(ValueError, match='there are 3 attention maps, one per task; choose one'):
        multi_task_explanation.overlay(images)
    chosen = multi_task_explanation.attention_map[:, [1]]
    torch.testing.assert_close(
        multi_task_explanation.overlay(images, chosen), make(chosen).overlay(images), rtol=0, atol=0
    )


def test_save_writes_a_picture_a_task(multi_task_explanation, tmp_path):
    images = torch.rand(2, 3, 14, 10)
    paths = multi_task_explanation.save(tmp_path, images, names=['cat', 'dog'])
    assert sorted(path.name for path in paths) == [f'{name}.{task}.png' for name in ('cat', 'dog') for task in range(3)]
    expected = multi_task_explanation.overlay(images, multi_task_explanation.attention_map[:, [2]])
    actual = torch.from_numpy(np.array(Image.open(tmp_path / 'dog.2.png'))).permute(2, 0, 1) / 255
    torch.testing.assert_close(actual, expected[1], rtol=0, atol=1 / 255)
    tensors = safetensors.torch.load_file(tmp_path / 'explanation.safetensors')
    assert torch.equal(tensors['attention_map'], multi_task_explanation.attention_map)
    assert type(multi_task_explanation[1]) is MultiTaskExplanation


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_ranges_wider_than_the_type(dtype):
    limit = torch.finfo(dtype).max
    maps = torch.tensor([-limit, -limit / 2, 0.0, limit], dtype=dtype).view(1, 1, 2, 2)
    expected = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype).view(1, 1, 2, 2)
    torch.testing.assert_close(normalize_maps(maps), expected)
    torch.testing.assert_close(centre_maps(maps), expected)
