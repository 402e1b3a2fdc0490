"""The Hugging Face layout in both directions, against transformers itself."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import (
    AttentiveClassifier,
    EncoderConfig,
    PoolerConfig,
    Predictor,
    PredictorConfig,
    Preprocessing,
    TokenGrid,
    VideoEncoder,
    load_classifiers,
    load_encoder,
    load_predictor,
    save_hf,
)

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5
# int(64 * 256 / 224) is what the published processor resizes to for a crop of 64.
INPUT = Preprocessing(num_frames=6, fps=4.0, resize_px=73, crop_px=64)
GRID = TokenGrid(3, 4, 4)


def shake(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return module.eval()


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def their_config(**changes):
    fields = {
        "crop_size": 64,
        "frames_per_clip": 6,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "mlp_ratio": 48 / 11,
        "num_pooler_layers": 2,
        "pred_hidden_size": 48,
        "pred_num_attention_heads": 3,
        "pred_num_hidden_layers": 2,
        "pred_num_mask_tokens": 3,
    }
    return transformers.VJEPA2Config(**{**fields, **changes})


def clip() -> Tensor:
    return torch.randn(2, 3, 6, 64, 64, generator=torch.Generator().manual_seed(0))


def context_and_target() -> tuple[Tensor, Tensor]:
    order = torch.stack(
        [torch.randperm(GRID.size, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    )
    return order[:, :20], order[:, 20:33]


@torch.no_grad()
@pytest.mark.parametrize("shards", [1, 3])
def test_model_of_transformers_gives_the_same_here(tmp_path, shards):
    theirs = shake(transformers.VJEPA2Model(their_config()), seed=1)
    theirs.save_pretrained(tmp_path, max_shard_size="5GB" if shards == 1 else "300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= shards
    encoder, predictor = load_encoder(tmp_path), load_predictor(tmp_path)
    video, (context, target) = clip(), context_and_target()
    out = theirs(video.transpose(1, 2), context_mask=[context], target_mask=[target])
    tokens = encoder(video)
    assert relative(tokens, out.last_hidden_state) <= TOLERANCE
    seen = tokens.gather(1, context.unsqueeze(-1).expand(-1, -1, 64))
    predictions = predictor(seen, context, target, encoder.grid_of(video))
    assert relative(predictions, out.predictor_output.last_hidden_state) <= TOLERANCE
    one = theirs(video[:, :, :1].transpose(1, 2), skip_predictor=True).last_hidden_state
    assert relative(encoder(video[:, :, :1]), one) <= TOLERANCE


@torch.no_grad()
def test_video_classifier_of_transformers_gives_the_same_here(tmp_path):
    config = their_config(
        id2label={0: "pour", 1: "push", 2: "fold"}, label2id={"pour": 0, "push": 1, "fold": 2}
    )
    theirs = shake(transformers.VJEPA2ForVideoClassification(config), seed=2)
    theirs.save_pretrained(tmp_path)
    encoder, (classifier,) = load_encoder(tmp_path), load_classifiers(tmp_path)
    video = clip()
    assert classifier.labels == {"label": ["pour", "push", "fold"]}
    assert relative(classifier(encoder(video))["label"], theirs(video.transpose(1, 2)).logits) <= TOLERANCE


def our_models() -> tuple[VideoEncoder, Predictor, AttentiveClassifier]:
    encoder = VideoEncoder(EncoderConfig(64, 3, 2, 279, position="tiled"))
    # The third mask token is the trained one; transformers always looks at the second.
    predictor = Predictor(
        PredictorConfig(64, 1, 64, 48, 2, 3, 192, num_mask_tokens=4, mask_index=2, position="tiled")
    )
    classifier = AttentiveClassifier(PoolerConfig(64, 1, 3, 2, 256, norm_eps=1e-6), {"label": 5})
    return shake(encoder, 3), shake(predictor, 4), shake(classifier, 5)


@torch.no_grad()
def test_our_model_gives_the_same_in_transformers(tmp_path):
    encoder, predictor, _ = our_models()
    save_hf(tmp_path, encoder, INPUT, predictor)
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    video, (context, target) = clip(), context_and_target()
    out = theirs.eval()(video.transpose(1, 2), context_mask=[context], target_mask=[target])
    assert relative(out.last_hidden_state, encoder(video)) <= TOLERANCE
    seen = encoder(video).gather(1, context.unsqueeze(-1).expand(-1, -1, 64))
    predictions = predictor(seen, context, target, GRID)
    assert relative(out.predictor_output.last_hidden_state, predictions) <= TOLERANCE


@torch.no_grad()
def test_our_classifier_gives_the_same_in_transformers_and_comes_back(tmp_path):
    encoder, predictor, classifier = our_models()
    save_hf(tmp_path, encoder, INPUT, predictor, classifier)
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    video = clip()
    logits = classifier(encoder(video))["label"]
    assert relative(theirs(video.transpose(1, 2)).logits, logits) <= TOLERANCE
    assert torch.equal(load_classifiers(tmp_path)[0](load_encoder(tmp_path)(video))["label"], logits)


@torch.no_grad()
def test_encoder_alone_loads_in_transformers(tmp_path):
    encoder = our_models()[0]
    save_hf(tmp_path, encoder, INPUT)
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert all(name.startswith("predictor.") for name in report["missing_keys"])
    video = clip()
    out = theirs.eval().get_vision_features(video.transpose(1, 2))
    assert relative(out, encoder(video)) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("trusting", [False, True])
def test_any_encoder_loads_in_transformers_through_this_library(tmp_path, trusting):
    config = EncoderConfig(
        64,
        3,
        2,
        256,
        image_tokenizer=True,
        modality_embedding=True,
        output_layers=(1, 3),
        rope_reference_grid=16,
    )
    encoder = shake(VideoEncoder(config), 6)
    save_hf(tmp_path, encoder, INPUT, custom_code=True)
    if not trusting:
        importlib.import_module("jepa.models.adapters.transformers_model")
    theirs, report = transformers.AutoModel.from_pretrained(
        tmp_path, trust_remote_code=trusting, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    video = clip()
    expected = encoder(video)
    assert torch.equal(theirs.eval()(video.transpose(1, 2)).last_hidden_state, expected)
    again = load_encoder(tmp_path)
    assert (again.config, again.preprocessing) == (config, INPUT)
    assert torch.equal(again(video), expected)
    theirs.save_pretrained(tmp_path / "again")
    frames = torch.randint(0, 256, (6, 3, 80, 90), dtype=torch.uint8)
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    pixels = processor(frames, return_tensors="pt", do_sample_frames=False).pixel_values_videos[0]
    assert torch.equal(again.preprocess(frames), pixels.transpose(0, 1))


def test_custom_code_holds_an_encoder_only(tmp_path):
    encoder, predictor, _ = our_models()
    with pytest.raises(UserError, match="encoder alone"):
        save_hf(tmp_path, encoder, INPUT, predictor, custom_code=True)
    save_hf(tmp_path, encoder, Preprocessing(6, 4.0, 64, 64), custom_code=True)
    assert not (tmp_path / "video_preprocessor_config.json").exists()


@pytest.mark.parametrize("height, width", [(300, 400), (90, 73), (73, 90), (75, 75), (64, 500)])
def test_preprocessing_gives_the_numbers_of_the_published_processor(tmp_path, height, width):
    save_hf(tmp_path, our_models()[0], INPUT)
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    frames = torch.randint(
        0, 256, (5, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    theirs = processor(frames, return_tensors="pt", do_sample_frames=False).pixel_values_videos[0]
    ours = load_encoder(tmp_path).preprocess(frames)
    assert torch.equal(ours, theirs.transpose(0, 1))


def test_default_processor_agrees_with_the_zoo():
    from jepa.models import create_model

    with torch.device("meta"):
        stated = create_model("vjepa2_vit_large_256").preprocessing
    theirs = transformers.VJEPA2VideoProcessor()
    assert (stated.resize_px, stated.crop_px) == (theirs.size["shortest_edge"], theirs.crop_size["height"])
    assert (list(stated.mean), list(stated.std)) == (list(theirs.image_mean), list(theirs.image_std))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"position": "interleaved"}, "position=interleaved"),
        ({"output_layers": (2, 3)}, "norms per layer"),
        ({"image_tokenizer": True}, "image tokenizer"),
    ],
)
def test_what_transformers_cannot_compute_is_refused(tmp_path, changes, named):
    encoder = VideoEncoder(
        EncoderConfig(
            **{"embed_dim": 64, "depth": 3, "num_heads": 2, "mlp_dim": 256, "position": "tiled", **changes}
        )
    )
    with pytest.raises(UserError, match=named):
        save_hf(tmp_path, encoder, INPUT)
    assert not list(tmp_path.iterdir())


def test_other_heads_than_the_encoders_are_refused(tmp_path):
    encoder = our_models()[0]
    classifier = AttentiveClassifier(PoolerConfig(64, 1, 3, 4, 256, norm_eps=1e-6), {"label": 5})
    with pytest.raises(UserError, match="a pooler of 4 heads"):
        save_hf(tmp_path, encoder, INPUT, classifier=classifier)


def test_damaged_folders_are_refused(tmp_path):
    encoder, predictor, _ = our_models()
    save_hf(tmp_path, encoder, INPUT, predictor)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path)
    weights.write_bytes(whole.replace(b"encoder.layer.1.norm1.weight", b"encoder.layer.1.norm9.weight"))
    with pytest.raises(
        UserError, match=r"missing: blocks\.1\.norm1\.weight; unexpected: blocks\.1\.norm9\.weight"
    ):
        load_encoder(tmp_path)
    weights.write_bytes(whole.replace(b"layer.2.attention.key.bias", b"layer.2.attention.kex.bias"))
    with pytest.raises(UserError, match="lacks key of"):
        load_encoder(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "field, value", [("model_type", "videomae"), ("hidden_act", "silu"), ("qkv_bias", False)]
)
def test_foreign_folders_are_refused(tmp_path, field, value):
    save_hf(tmp_path, our_models()[0], INPUT)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(UserError, match=field):
        load_encoder(tmp_path)


def test_hub_without_network_says_so(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the Hugging Face hub did not give it.*give its path"):
        load_encoder("nobody-at-all/no-such-model")
