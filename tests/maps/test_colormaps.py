import pytest
import torch

from timm_abn.maps.colormaps import COLORMAPS, colormap_table


@pytest.mark.parametrize('name', COLORMAPS)
def test_table_is_matplotlibs_to_one_level(name):
    matplotlib = pytest.importorskip('matplotlib', reason="the colours are compared with Matplotlib's")
    expected = torch.tensor(matplotlib.colormaps[name](range(256)))[:, :3] * 255
    assert (colormap_table(name) - expected).abs().max() < 1.5
    assert colormap_table(name).dtype == torch.uint8


@pytest.mark.parametrize('name', COLORMAPS)
def test_lightness_rises_in_equal_steps(name):
    # CIE lightness, from the definition of sRGB: a little off the straight line, as the maps were made in another space
    srgb = colormap_table(name).double() / 255
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    lightness = torch.where(luminance > 0.008856, 116 * luminance ** (1 / 3) - 16, 903.3 * luminance)
    line = torch.linspace(lightness[0], lightness[-1], 256, dtype=torch.float64)
    assert (lightness - line).abs().max() < 6
    assert (lightness.diff() > -0.2).all()


def test_unknown_name():
    with pytest.raises(ValueError, match="one of 'viridis', 'inferno', 'magma', got 'jet'"):
        colormap_table('jet')
