import pytest
import torch

from timm_abn.maps.colormaps import COLORMAPS, DIVERGING_COLORMAP, SEQUENTIAL_COLORMAPS, colormap_table


@pytest.mark.parametrize('name', COLORMAPS)
def test_table_is_matplotlibs_to_one_level(name):
    matplotlib = pytest.importorskip('matplotlib', reason="the colours are compared with Matplotlib's")
    expected = torch.tensor(matplotlib.colormaps[name](range(256)))[:, :3] * 255
    assert (colormap_table(name) - expected).abs().max() < 1.5
    assert colormap_table(name).dtype == torch.uint8


def lightness_of(name):
    """Return the CIE lightness of the colours, from the definition of sRGB."""
    srgb = colormap_table(name).double() / 255
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    return torch.where(luminance > 0.008856, 116 * luminance ** (1 / 3) - 16, 903.3 * luminance)


@pytest.mark.parametrize('name', SEQUENTIAL_COLORMAPS)
def test_lightness_rises_in_equal_steps(name):
    # a little off the straight line, as the maps were made in another space
    lightness = lightness_of(name)
    line = torch.linspace(lightness[0], lightness[-1], 256, dtype=torch.float64)
    assert (lightness - line).abs().max() < 6
    assert (lightness.diff() > -0.2).all()


def test_the_diverging_map_is_neutral_in_the_middle_and_falls_alike_to_both_sides():
    table, lightness = colormap_table(DIVERGING_COLORMAP).int(), lightness_of(DIVERGING_COLORMAP)
    assert set(COLORMAPS) - set(SEQUENTIAL_COLORMAPS) == {DIVERGING_COLORMAP}
    assert (table[127:129].amax(dim=1) - table[127:129].amin(dim=1)).max() <= 2  # grey
    assert table[0, 2] > 2 * table[0, 0] and table[-1, 0] > 2 * table[-1, 2]  # from blue to red
    assert (lightness[:128].diff() > -0.2).all() and (lightness[128:].diff() < 0.2).all()
    assert (lightness - lightness.flip(0)).abs().max() < 6


def test_unknown_name():
    with pytest.raises(ValueError, match="one of 'viridis', 'inferno', 'magma', 'coolwarm', got 'jet'"):
        colormap_table('jet')
