"""AttachedNet: a classifier as it is, with the evidence of its own head at each place."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from tiers import fast_and_slow
from timm.models.vision_transformer import Block, ResPostBlock
from tiny_models import NUM_CLASSES, TINY_BACKBONES, tiny_attached, tiny_backbone, tiny_images

import timm_abn
from timm_abn import TimmAbnError
from timm_abn.publish.folder import save_hub_folder
from timm_abn.records import Record, set_record

VIT, SWIN = dict(img_size=64), 'swin_tiny_patch4_window7_224'
# name -> its model, arguments, and whether the mean of its evidence is its logits
FAMILIES = {
    **{name: (name, TINY_BACKBONES[name], name in ('resnet20_cifar', SWIN)) for name in TINY_BACKBONES},
    'test_resnet': ('test_resnet', {}, True),
    'vit-avg': ('test_vit', dict(VIT, global_pool='avg', fc_norm=False, class_token=False, reg_tokens=2), False),
    'vit-fc-norm': ('test_vit', dict(VIT, global_pool='avg', class_token=False), False),
    'beit': ('beit_base_patch16_224', dict(img_size=64, embed_dim=48, depth=2, num_heads=2), False),
    'vit-map': ('test_vit', dict(VIT, global_pool='map'), False),
    'test_efficientnet': ('test_efficientnet', {}, True),
    'vgg': ('vgg11', {}, False),
    'vit-rope': ('vit_small_patch16_rope_224', dict(img_size=(64, 48), embed_dim=48, depth=2, num_heads=2), False),
    'srelpos': ('vit_srelpos_small_patch16_224', dict(img_size=64, embed_dim=48, depth=2, num_heads=2), True),
    'one-logit': ('test_resnet', dict(num_classes=1), True),
}


def made(name):
    model, kwargs, is_mean = FAMILIES[name]
    torch.manual_seed(0)
    backbone = timm.create_model(model, **{'num_classes': NUM_CLASSES, **kwargs}).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # layer scales and biases that matter
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone.double(), is_mean


def alone(backbone, places, features, images):
    """Return the logits of one place after the other, by a loop, from features as the backbone lays them out."""
    maps = places.to_maps(features, images)
    rows = []
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            place = maps[:, :, y, x]
            if features.ndim == 3:
                place = torch.stack([place] * (places.num_prefix_tokens + 1), dim=1)
            elif places.layout == 'NHWC':
                place = place[:, None, None, :]
            else:
                place = place[:, :, None, None]
            rows.append(backbone.forward_head(place))
    return torch.stack(rows, dim=2).unflatten(2, maps.shape[2:])


def traced(backbone, images):
    """Return the logits of what the classifier is given from each position, by a loop, from the weights of timm."""
    model = copy.deepcopy(backbone)
    block, seen, is_mean = model.blocks[-1], {}, model.global_pool == 'avg'
    block.attn.fused_attn = False
    block.register_forward_pre_hook(lambda _, args: seen.update(before=args[0]))
    for name, module in (('weights', block.attn.attn_drop), ('tokens', block.norm1), ('after', block)):
        module.register_forward_hook(lambda _, args, output, name=name: seen.update({name: output}))
    model(images)
    values = block.attn.qkv(seen['tokens']).chunk(3, dim=2)[2]
    scale = 1.0 if getattr(block, 'gamma_1', None) is None else block.gamma_1
    scale = getattr(getattr(block, 'ls1', None), 'gamma', scale)
    heads, projection = block.attn.num_heads, block.attn.proj.weight
    size, places = values.shape[2] // heads, range(model.num_prefix_tokens, values.shape[1])
    read = places if is_mean else [0]
    rows = []
    for place in places:
        given = torch.zeros_like(seen['after'][:, 0])
        for token in read:
            term = seen['before'][:, place].clone() if token == place else torch.zeros_like(given)
            for head in range(heads):
                channels = slice(head * size, (head + 1) * size)
                share = seen['weights'][:, head, token, place, None]
                term += scale * (share * values[:, place, channels] @ projection[:, channels].T)
            given += normed_like(seen['after'][:, token], term, model.norm) / len(read)
        pooled = model.norm(seen['after'][:, list(read)]).mean(dim=1)
        rows.append(model.head(len(places) * normed_like(pooled, given, getattr(model, 'fc_norm', None))))
    return torch.stack(rows, dim=2).unflatten(2, model.patch_embed.grid_size)


def normed_like(whole, part, norm):
    """Return a part of a sum under layer norm with the statistics of the whole."""
    if not isinstance(norm, torch.nn.LayerNorm):
        return part
    return norm.weight * (part - part.mean(1, True)) / (whole.var(1, correction=0, keepdim=True) + norm.eps).sqrt()


@pytest.mark.parametrize('name', fast_and_slow(FAMILIES, FAMILIES.keys() - {'vgg'}))
@torch.no_grad()
def test_logits_are_those_of_the_model_and_evidence_is_its_head_at_each_place(name):
    backbone, is_mean = made(name)
    size = getattr(getattr(backbone, 'patch_embed', None), 'img_size', None) or (64, 64)
    model, images = timm_abn.attach(backbone), tiny_images(2, size=size, dtype=torch.float64)
    explanation, expected = model.explain(images), backbone(images)
    assert torch.equal(model(images), expected) and torch.equal(explanation.logits, expected)
    if model.is_traced:
        by_loop = traced(backbone, images)
    else:
        by_loop = alone(backbone, model.places, backbone.forward_features(images), images)
    torch.testing.assert_close(explanation.class_maps, by_loop, rtol=1e-9, atol=1e-9)
    assert torch.allclose(explanation.class_maps.mean(dim=(2, 3)), expected, rtol=1e-9, atol=1e-9) == is_mean
    classes = torch.tensor([1, 0])
    one = model.explain(images, classes, class_maps=False)
    assert one.class_maps is None and torch.equal(one.classes, classes) and not one.map_gates
    if by_loop.shape[1] == 1:  # yes and no
        by_loop = torch.cat([-by_loop, by_loop], dim=1) / 2
    chosen = torch.stack([by_loop[0, 1], by_loop[1, 0]])[:, None]
    torch.testing.assert_close(explanation.class_map(classes), chosen, rtol=1e-9, atol=1e-9)
    chosen = chosen - chosen.mean(dim=(2, 3), keepdim=True)
    chosen = chosen / chosen.std(dim=(2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(one.attention_map, chosen, rtol=1e-7, atol=1e-7)
    assert explanation.explained_by == 'class_map'


@pytest.mark.parametrize('change', ['scale', 'post-norm', 'norm'])
def test_evidence_of_a_class_token_is_proven(change):
    backbone = tiny_backbone('test_vit', block_fn=ResPostBlock if change == 'post-norm' else Block)
    block = backbone.blocks[-1]
    if change == 'scale':
        block.attn.scale *= 1.1  # which timm's fused attention does not read
    elif change == 'norm':
        backbone.norm = torch.nn.Tanh()
    with pytest.raises(TimmAbnError, match='reads the class token alone'):
        timm_abn.attach(backbone)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_traced_evidence_in_half_precision(dtype):
    torch.manual_seed(0)
    backbone = timm.create_model('test_vit', num_classes=NUM_CLASSES, img_size=64).eval()
    torch.nn.init.normal_(backbone.head.weight)
    with torch.no_grad():
        backbone.blocks[-2].mlp.fc2.bias[3] = 300  # its square is beyond half precision
    images = tiny_images()
    expected = timm_abn.attach(backbone).explain(images).attention_map.flatten()
    with torch.autocast('cpu', torch.bfloat16):  # also attached to under autocast
        mixed = timm_abn.attach(backbone).explain(images).attention_map
    half = timm_abn.attach(backbone.to(dtype)).explain(images.to(dtype)).attention_map
    assert half.dtype == dtype
    for found in (half, mixed):
        assert torch.corrcoef(torch.stack([expected, found.float().flatten()]))[0, 1] > 0.9


def test_labels_that_do_not_exclude_each_other():
    backbone = tiny_backbone('test_resnet').eval()
    set_record(backbone, Record('sigmoid'))
    explanation = timm_abn.attach(backbone).explain(tiny_images())
    assert not explanation.exclusive
    torch.testing.assert_close(explanation.probabilities, explanation.logits.sigmoid())


def test_the_model_is_left_alone_and_shares_its_weights():
    backbone, images = tiny_backbone('test_resnet').train(), tiny_images()
    backbone.conv1[0].weight.requires_grad_(False)
    before = [(id(p), p.requires_grad) for p in backbone.parameters()], {m: m.training for m in backbone.modules()}
    model = timm_abn.attach(backbone)
    model.explain(images)
    assert before == (
        [(id(p), p.requires_grad) for p in backbone.parameters()],
        {m: m.training for m in backbone.modules()},
    )
    assert not any(module.training for module in model.modules()) and not model.train().backbone.training
    with torch.no_grad():
        backbone.get_classifier().bias.add_(1)
    assert torch.equal(model(images), backbone.eval()(images))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: tiny_backbone('test_resnet', num_classes=0), 'ResNet has no classifier whose evidence could be shown'),
        (
            lambda: timm.create_model(
                'coat_tiny', embed_dims=(32, 32, 32, 32), serial_depths=(1, 1, 1, 1), parallel_depth=1
            ),
            r'CoaT cannot be explained place by place: .* are several \(list\)',
        ),
        *(
            (lambda name=name, kwargs=kwargs: timm.create_model(name, **kwargs), f'reads the class token.*{reason}')
            for name, kwargs, reason in (
                ('deit_tiny_distilled_patch16_224', dict(embed_dim=48, depth=2), 'its classifier is a tuple'),
                (
                    'cait_xxs24_224',
                    dict(depth=1, embed_dim=48, num_heads=2),
                    'does not return the tokens before its last block',
                ),
            )
        ),
        (
            lambda: torch.nn.Linear(3, 2),
            'attach.. takes classifiers of timm, which have a forward_head; Linear has none',
        ),
        (lambda: 3, 'attach.. takes a timm model or its name, got 3'),
        (lambda: tiny_attached('test_resnet'), '^resnet.* explains itself already|attached.* explains itself already'),
    ],
)
def test_what_cannot_be_attached_to(make, message):
    with pytest.raises(TimmAbnError, match=message) as error:
        timm_abn.attach(make())
    assert '\n' not in str(error.value)


def test_wrong_arguments():
    model, images = tiny_attached('test_resnet'), tiny_images()
    for classes in (torch.tensor([0]), torch.tensor([0, NUM_CLASSES]), torch.tensor([0.0, 1.0]), [0, 1]):
        with pytest.raises(TimmAbnError, match=f'classes must be one index from 0 to {NUM_CLASSES - 1} for each of 2'):
            model.explain(images, classes)
    with pytest.raises(TimmAbnError, match=r'images must have shape \(B, 3, H, W\)'):
        model.explain(images[:, :1])
    with pytest.raises(TimmAbnError, match='need the name of a model'):
        timm_abn.attach(tiny_backbone('test_resnet'), checkpoint='x')
    with pytest.raises(TimmAbnError, match='there is no product: the attention map'):
        set_record(model, Record(explained_by='product'))
        model.explain(images).explaining_map()


def refined(backbone='test_resnet', **kwargs):
    model = tiny_attached(backbone, refined=True, **kwargs)
    torch.nn.init.normal_(model.refinement.out.weight)
    return model


@torch.no_grad()
def test_a_refined_map_is_of_the_class_that_was_asked_for():
    model, images = refined(), tiny_images()
    found = [model.explain(images, torch.full((2,), index)) for index in range(2)]
    assert all(one.explained_by == 'attention' for one in found)
    assert all(one.attention_map.mean(dim=(2, 3)).abs().max() < 1e-5 for one in found)
    assert not torch.allclose(found[0].attention_map, found[1].attention_map, atol=0.01)
    with pytest.raises(TimmAbnError, match=r'the attention maps are of classes \[0, 0\], not \[1, 1\]'):
        found[0].explaining_map(torch.tensor([1, 1]))
    model = tiny_attached('test_resnet', refined=True)
    start = model.explain(images)
    evidence = F.interpolate(start.class_map(), start.attention_map.shape[2:], mode='bilinear')
    evidence = (evidence - evidence.mean(dim=(2, 3), keepdim=True)) / evidence.std(
        dim=(2, 3), keepdim=True, correction=0
    )
    torch.testing.assert_close(start.attention_map, evidence, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('make', [lambda: tiny_attached('test_vit'), refined])
def test_hub_folders(make, tmp_path):
    model, images = make(), tiny_images()
    save_hub_folder(model, tmp_path, '# card')
    loaded = timm_abn.load_model(f'local-dir:{tmp_path}')
    first, second = model.explain(images), loaded.explain(images)
    assert all(torch.equal(second._tensors()[name], tensor) for name, tensor in first._tensors().items())
    assert second.explained_by == first.explained_by and loaded.is_linear == model.is_linear


def test_scripts():
    model, images = tiny_attached('test_resnet'), tiny_images()
    torch.testing.assert_close(torch.jit.script(model)(images), model(images))
