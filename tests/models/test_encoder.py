"""VideoEncoder: what it computes, what it refuses, and that masked patches are never read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import (
    EncoderConfig,
    Predictor,
    PredictorConfig,
    Preprocessing,
    TokenGrid,
    VideoEncoder,
    create_model,
)
from jepa.models.rope import sincos_table

SMALL = EncoderConfig(48, 3, 2, 96)
MULTI_LAYER = EncoderConfig(
    48, 4, 2, 96, rope_reference_grid=16, image_tokenizer=True, modality_embedding=True, output_layers=(2, 4)
)
SINCOS = EncoderConfig(48, 3, 2, 96, position="sincos", sincos_grid=(2, 3, 4))


def seeded(config: EncoderConfig) -> VideoEncoder:
    encoder = VideoEncoder(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return encoder.eval()


def clip(frames: int = 4, height: int = 48, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_matches_a_plain_vision_transformer():
    """Convolution, torch's own encoder layer and layer norm, with positions taken out of the way."""
    encoder = seeded(EncoderConfig(48, 3, 2, 96, position="sincos", sincos_grid=(2, 3, 4)))
    video = clip()
    conv = encoder.patch_embed.proj
    x = functional.conv3d(video, conv.weight, conv.bias, stride=conv.kernel_size).flatten(2).transpose(1, 2)
    x = x + sincos_table(TokenGrid(2, 3, 4), 48, TokenGrid(2, 3, 4))
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(
            48, 2, 96, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.attn.qkv.weight,
                "self_attn.in_proj_bias": block.attn.qkv.bias,
                "self_attn.out_proj.weight": block.attn.proj.weight,
                "self_attn.out_proj.bias": block.attn.proj.bias,
                "linear1.weight": block.mlp.fc1.weight,
                "linear1.bias": block.mlp.fc1.bias,
                "linear2.weight": block.mlp.fc2.weight,
                "linear2.bias": block.mlp.fc2.bias,
                "norm1.weight": block.norm1.weight,
                "norm1.bias": block.norm1.bias,
                "norm2.weight": block.norm2.weight,
                "norm2.bias": block.norm2.bias,
            }
        )
        x = layer.train()(x)
    x = functional.layer_norm(x, (48,), encoder.norm.weight, encoder.norm.bias, 1e-6)
    assert torch.allclose(encoder(video), x, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, MULTI_LAYER, SINCOS], ids=["rope", "multi-layer", "sincos"])
def test_keeping_all_tokens_in_any_order_changes_nothing(config):
    encoder, video = seeded(config), clip()
    full = encoder(video)
    order = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(s)) for s in (2, 3)])
    expected = full.gather(1, order.unsqueeze(-1).expand(-1, -1, full.shape[-1]))
    assert torch.allclose(encoder(video, keep=order), expected, atol=1e-5)


@torch.no_grad()
def test_masked_patches_never_reach_the_encoder():
    encoder, video = seeded(SMALL), clip()
    keep = torch.tensor([[0, 7, 23], [4, 5, 12]])
    before = encoder(video, keep=keep)
    poisoned = torch.full_like(video, float("nan"))
    for sample, ids in enumerate(keep.tolist()):
        for token in ids:
            t, rest = divmod(token, 12)
            h, w = divmod(rest, 4)
            position = (
                slice(None),
                slice(2 * t, 2 * t + 2),
                slice(16 * h, 16 * h + 16),
                slice(16 * w, 16 * w + 16),
            )
            poisoned[sample][position] = video[sample][position]
    assert torch.equal(encoder(poisoned, keep=keep), before)


@torch.no_grad()
def test_samples_do_not_mix():
    encoder, video = seeded(SMALL), clip()
    assert torch.allclose(encoder(video)[1:], encoder(video[1:]), atol=1e-5)


@torch.no_grad()
def test_single_frame_is_repeated_or_has_a_tokenizer():
    plain, own = seeded(SMALL), seeded(MULTI_LAYER)
    image = clip(frames=1)
    assert torch.allclose(plain(image), plain(image.expand(-1, -1, 2, -1, -1)), atol=1e-6)
    assert torch.equal(plain(image[:, :, 0]), plain(image))
    conv = own.patch_embed_img.proj
    assert conv.weight.shape == (48, 3, 1, 16, 16)
    expected = functional.conv3d(image, conv.weight, conv.bias, stride=(1, 16, 16)).flatten(2).transpose(1, 2)
    assert torch.allclose(own.patch_embed_img(image), expected, atol=1e-5)
    assert not torch.allclose(own(image), own(image.expand(-1, -1, 2, -1, -1)), atol=1e-2)


@torch.no_grad()
def test_features_of_several_depths():
    encoder, video = seeded(SMALL), clip()
    last = encoder(video)
    assert torch.equal(encoder.features(video), last)
    third, first, embedded = encoder.features(video, layers=[-1, 1, 0])
    assert torch.equal(third, last)
    assert torch.equal(embedded, encoder.patch_embed(video))
    assert torch.equal(encoder.features(video, layers=1), first)
    keep = torch.tensor([[0, 7, 23], [4, 5, 12]])
    assert torch.allclose(
        encoder.features(video, 0, keep), embedded.gather(1, keep[..., None].expand(-1, -1, 48)), atol=1e-5
    )
    shallow = VideoEncoder(replace(SMALL, depth=1)).eval()
    shallow.load_state_dict({name: encoder.state_dict()[name] for name in shallow.state_dict()})
    assert torch.equal(shallow(video), first)
    assert torch.allclose(encoder.features(video, pool="mean"), last.mean(1))
    grid = encoder.features(video, 3, pool="grid")
    assert grid.shape == (2, 2, 3, 4, 48)
    assert torch.equal(grid[1, 1, 2, 3], last[1, 1 * 12 + 2 * 4 + 3])


@torch.no_grad()
def test_output_layers_have_norms_of_their_own():
    encoder, video = seeded(MULTI_LAYER), clip()
    shallow, deep = encoder.features(video, layers=[2, 4])
    assert torch.equal(deep, encoder(video))
    assert torch.equal(encoder(video, multi_layer=True), torch.cat([shallow, deep], dim=-1))
    raw = encoder.block_outputs(video, [2])[2]
    assert torch.equal(encoder.norms_block[0](raw), shallow)
    with pytest.raises(UserError, match=r"norms at the depths \[2, 4\]"):
        encoder.features(video, layers=[1])


@torch.no_grad()
def test_any_size_that_the_patch_divides():
    encoder = seeded(SMALL)
    for frames, height, width in [(2, 16, 16), (6, 80, 16), (4, 16, 112), (2, 48, 80)]:
        video = clip(frames, height, width)
        grid = encoder.grid_of(video)
        assert grid == (frames // 2, height // 16, width // 16)
        assert encoder(video).shape == (2, grid.size, 48)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 3, 3, 32, 32), "3 frames"),
        ((2, 3, 4, 40, 32), "40 x 32 pixels"),
        ((2, 3, 4, 32, 8), "32 x 8 pixels"),
        ((2, 1, 4, 32, 32), "expected a video"),
        ((3, 4, 32), "expected a video"),
        ((2, 3, 0, 32, 32), "0 frames"),
    ],
)
def test_other_sizes_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        seeded(SMALL)(torch.zeros(shape))


def test_malformed_requests_are_refused():
    encoder, video = seeded(SMALL), clip()
    keep = torch.zeros(2, 3, dtype=torch.int64)
    requests = [
        (lambda: encoder(video, keep=keep.int()), "keep"),
        (lambda: encoder(video, keep=keep[:1]), "keep"),
        (lambda: encoder(video, multi_layer=True), "output_layers"),
        (lambda: encoder.features(video, layers=[0, 4, -5]), r"do not exist, \[4, -5\].*blocks are 1 to 3"),
        (lambda: encoder.features(video, layers=[]), "layers is empty"),
        (lambda: encoder.features(video, pool="max"), "pool='max'"),
        (lambda: encoder.features(video, keep=keep, pool="grid"), "pool='grid'"),
        (lambda: encoder.preprocess(torch.zeros(1, 3, 16, 16)), "does not state its preprocessing"),
    ]
    for request, message in requests:
        with pytest.raises(UserError, match=message):
            request()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_heads": 5}, "5 heads"),
        ({"embed_dim": 49, "num_heads": 7}, "7 heads"),
        ({"position": "learned"}, "position='learned'"),
        ({"position": "sincos"}, "sincos_grid"),
        ({"modality_embedding": True}, "image_tokenizer"),
        ({"output_layers": (1, 2)}, "output_layers"),
        ({"output_layers": (3, 2)}, "output_layers"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        EncoderConfig(**{"embed_dim": 48, "depth": 3, "num_heads": 2, "mlp_dim": 96, **fields})


@pytest.mark.parametrize(("width", "std"), [(128, 128**-0.5), (384, 0.02)])
def test_initial_weights(width, std):
    torch.manual_seed(0)
    encoder = VideoEncoder(EncoderConfig(width, 4, 4, 512, image_tokenizer=True, modality_embedding=True))
    for number, block in enumerate(encoder.blocks, 1):
        scale = (2 * number) ** -0.5
        assert block.attn.qkv.weight.std().item() == pytest.approx(std, rel=0.03)
        assert block.attn.proj.weight.std().item() == pytest.approx(std * scale, rel=0.03)
        assert block.mlp.fc2.weight.std().item() == pytest.approx(std * scale, rel=0.03)
        assert block.mlp.fc1.bias.abs().max() == 0
        assert block.norm1.weight.eq(1).all()
    assert encoder.patch_embed.proj.weight.std().item() == pytest.approx(std, rel=0.03)
    assert 0 < encoder.img_mod_embed.abs().max() < 1e-5


def test_built_on_meta_and_initialised_leaves_no_weight_out():
    with torch.device("meta"):
        encoder = VideoEncoder(MULTI_LAYER)
    assert all(parameter.is_meta for parameter in encoder.parameters())
    encoder.to_empty(device="cpu")
    for parameter in encoder.parameters():
        parameter.data.fill_(float("nan"))
    encoder.init_weights(torch.Generator().manual_seed(5))
    other = VideoEncoder(MULTI_LAYER)
    other.init_weights(torch.Generator().manual_seed(5))
    for ours, theirs in zip(encoder.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_every_weight_gets_a_gradient():
    encoder = seeded(MULTI_LAYER).train()
    (encoder(clip(), multi_layer=True).sum() + encoder(clip(frames=1)).square().sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_positions_matter():
    """Swapping two patches must not merely swap two tokens."""
    encoder, video = seeded(SMALL), clip()
    swapped = video.clone()
    swapped[..., :16, :16], swapped[..., 16:32, 16:32] = video[..., 16:32, 16:32], video[..., :16, :16]
    order = torch.arange(24)
    order[[0, 5, 12, 17]] = torch.tensor([5, 0, 17, 12])
    assert not torch.allclose(encoder(swapped), encoder(video)[:, order], atol=1e-2)


@torch.no_grad()
def test_bfloat16_and_autocast_stay_close():
    encoder, video = create_model("vit_nano").eval(), clip()
    exact = encoder(video)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = encoder(video)
    assert (cast.float() - exact).abs().max() < 0.1
    assert (encoder.bfloat16()(video.bfloat16()).float() - exact).abs().max() < 0.1


@pytest.mark.slow
@torch.no_grad()
def test_compiles_without_a_graph_break():
    """On the eager backend, which traces like every other and needs no C++ compiler."""
    encoder = VideoEncoder(MULTI_LAYER).eval()
    predictor = Predictor(PredictorConfig(48, 2, 96, 32, 2, 2, 64, context_head=True)).eval()
    keep = torch.tensor([[0, 7, 23], [4, 5, 12]])
    target = torch.tensor([[1, 2], [0, 1]])
    video = clip()
    grid = encoder.grid_of(video)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(video), encoder(video), atol=1e-5)
    seen = compiled(video, keep, multi_layer=True)
    assert torch.allclose(seen, encoder(video, keep, multi_layer=True), atol=1e-5)
    compiled_predictor = torch.compile(predictor, fullgraph=True, backend="eager")
    assert torch.allclose(
        compiled_predictor(seen, keep, target, grid), predictor(seen, keep, target, grid), atol=1e-5
    )
    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        compiled(video, keep).float().sum().backward()
    assert encoder.patch_embed.proj.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [SMALL, MULTI_LAYER, SINCOS], ids=["rope", "multi-layer", "sincos"])
def test_half_precision_weights_take_float32_pixels(config, dtype):
    encoder = seeded(config)
    half = deepcopy(encoder).to(dtype)
    tokens, expected = half(clip()), encoder(clip())
    assert tokens.dtype == dtype
    assert (tokens.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert torch.equal(half(clip().to(dtype)), tokens)


def test_pixels_that_were_not_normalised_are_refused():
    with pytest.raises(UserError, match=r"got torch.uint8; encoder.preprocess"):
        seeded(SMALL)(clip().to(torch.uint8))


def test_frames_come_as_tensors_or_arrays_with_channels_second_or_last():
    encoder = seeded(SMALL)
    encoder.preprocessing = Preprocessing(4, 4.0, 40, 32)
    frames = torch.randint(0, 256, (4, 3, 50, 60), dtype=torch.uint8)
    expected = encoder.preprocess(frames)
    array = frames.numpy().copy()
    array.flags.writeable = False
    last = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    for given in (array, last, frames.permute(0, 2, 3, 1), last[..., ::-1][..., ::-1]):
        assert torch.equal(encoder.preprocess(given), expected)
    with pytest.raises(UserError, match=r"\[T, H, W, 3\], got torch.uint8 \[4, 50, 60, 4\]"):
        encoder.preprocess(np.zeros((4, 50, 60, 4), np.uint8))
    with pytest.raises(UserError, match=r"got torch\.float64"):
        encoder.preprocess(np.zeros((4, 3, 50, 60)))
