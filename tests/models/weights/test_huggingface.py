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
    push_to_hub,
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


@pytest.mark.parametrize("trusting", [False, True])
def test_any_preprocessing_has_a_video_processor_for_batches(tmp_path, trusting):
    # No crop of 64 of the published processor goes with a shorter side of 64.
    stated = Preprocessing(6, 4.0, 64, 64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    encoder = our_models()[0]
    save_hf(tmp_path, encoder, stated, custom_code=True)
    if not trusting:
        importlib.import_module("jepa.models.adapters.transformers_model")
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path, trust_remote_code=trusting)
    videos = torch.randint(0, 256, (2, 6, 3, 80, 90), dtype=torch.uint8)
    expected = torch.stack([stated.apply(video).transpose(0, 1) for video in videos])
    for given in (videos, videos.numpy(), list(videos), list(videos.permute(0, 1, 3, 4, 2).numpy())):
        pixels = processor(given, return_tensors="pt").pixel_values_videos
        assert torch.equal(pixels, expected)
    assert processor(videos[0], return_tensors="pt").pixel_values_videos.shape == (1, 6, 3, 64, 64)


def test_every_export_has_a_card_and_a_person_may_write_another(tmp_path):
    encoder, _, _ = our_models()
    encoder.metadata = {"model": "mine", "steps": 7}
    for number, custom in enumerate((False, True)):
        folder = tmp_path / str(number)
        save_hf(folder, encoder, INPUT, custom_code=custom)
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: transformers\n")
        assert "6 frames at 4 frames per second" in card
        assert '"steps": 7' in card
        assert ("trust_remote_code" in card) == custom
    (folder / "README.md").write_text("# By hand\n")
    save_hf(folder, encoder, INPUT, custom_code=True)
    assert (folder / "README.md").read_text() == "# By hand\n"


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


def test_hub_gets_revision_and_token_and_nothing_else_does(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    save_hf(tmp_path, our_models()[0], INPUT)
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    encoder = load_encoder("me/mine", revision="v2", token="secret", device="cpu")
    assert encoder.preprocessing == INPUT
    assert (asked["name"], asked["revision"], asked["token"]) == ("me/mine", "v2", "secret")
    with pytest.raises(UserError, match="revision= and token= are for repositories"):
        load_encoder(tmp_path, revision="v2")


def test_push_to_hub_uploads_a_folder(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    done = []

    class Api:
        def __init__(self, token=None):
            done.append(("token", token))

        def create_repo(self, name, **options):
            done.append(("create", name, options["private"]))

        def upload_folder(self, **options):
            done.append(("upload", options["repo_id"], sorted(options["ignore_patterns"])))
            return "https://huggingface.co/me/mine/commit/1"

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(UserError, match="no export"):
        push_to_hub(tmp_path, "me/mine")
    save_hf(tmp_path, our_models()[0], INPUT)
    assert push_to_hub(tmp_path, "me/mine", token="t", private=True).endswith("/commit/1")
    assert done[:2] == [("token", "t"), ("create", "me/mine", True)]
    assert done[2][:2] == ("upload", "me/mine")
