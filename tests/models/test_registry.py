"""The registry: sizes against the published ones, model cards, checked overrides, and architectures from outside."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.models import (
    EncoderConfig,
    PredictorConfig,
    Preprocessing,
    VideoEncoder,
    architectures,
    create_model,
    create_predictor,
    list_models,
    load_encoder,
    register_model,
    save_encoder,
)
from jepa.models.architectures import default_predictor, entry_of
from jepa.models.cards import cards_table, model_card

ROOT = Path(__file__).parents[2]

# Millions of parameters counted on the published code.
PUBLISHED = {
    "vit_tiny": (5.63, None),
    "vit_small": (21.88, None),
    "vit_base": (86.24, None),
    "vjepa2_vit_large_256": (303.89, 22.09),
    "vjepa2_vit_huge_256": (631.65, 22.28),
    "vjepa2_vit_giant_256": (1012.17, 22.38),
    "vjepa2_vit_giant_384": (1012.17, 22.38),
    "vjepa2_1_vit_base_384": (86.83, None),
    "vjepa2_1_vit_large_384": (304.68, None),
    "vjepa2_1_vit_giant_384": (1013.27, None),
    "vjepa2_1_vit_gigantic_384": (1845.22, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    card = model_card(name)
    encoder, predictor = PUBLISHED[name]
    assert round(card.parameters / 1e6, 2) == encoder
    if predictor is not None:
        assert round(card.predictor_parameters / 1e6, 2) == predictor


@pytest.mark.parametrize(
    "name, tokens",
    [("vjepa2_vit_large_256", 8192), ("vjepa2_vit_giant_384", 18432), ("vjepa_vit_large_224", 1568)],
)
def test_token_counts_are_the_published_ones(name, tokens):
    assert model_card(name).tokens == tokens


def test_list_models_filters():
    assert list_models("vjepa2_vit_*") == [
        "vjepa2_vit_large_256",
        "vjepa2_vit_huge_256",
        "vjepa2_vit_giant_256",
        "vjepa2_vit_giant_384",
    ]
    assert "vit_nano" in list_models()
    assert list_models("nothing*") == []


def test_every_entry_and_its_predictor_fit_together():
    for name in list_models():
        with torch.device("meta"):
            encoder, predictor = create_model(name), create_predictor(name)
        config = predictor.config
        assert config.encoder_dim == encoder.embed_dim
        assert config.target_layers in (1, len(encoder.config.output_layers))
        assert config.position == encoder.config.position
        assert config.rope_reference_grid == encoder.config.rope_reference_grid


def test_overrides_are_checked():
    encoder = create_model("vit_nano", patch_px=8, tubelet_frames=1)
    assert encoder.patch_embed.proj.weight.shape == (128, 3, 1, 8, 8)
    assert create_predictor("vit_nano", encoder_dim=96).config.out_dim == 96
    assert create_predictor("vit_nano", encoder_dim=96, out_dim=7).config.out_dim == 7
    with pytest.raises(UserError, match="has no patch_size"):
        create_model("vit_nano", patch_size=8)
    with pytest.raises(UserError, match="no model named 'vit_micron'"):
        create_model("vit_micron")
    with pytest.raises(UserError, match="no weights were published"):
        create_model("vit_nano", weights="published")


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    entries = dict(architectures.ENTRIES)
    yield
    for name in set(architectures.ENTRIES) - set(entries):
        del architectures.ENTRIES[name]


def test_an_architecture_is_added_from_outside(registry, tmp_path):
    config = EncoderConfig(96, depth=3, num_heads=3, mlp_dim=192, patch_px=8, tubelet_frames=1)
    register_model("theirs", config, preprocessing=Preprocessing(8, 2.0, 73, 64), paper="arXiv 0000.00000")
    encoder, predictor = create_model("theirs"), create_predictor("theirs")
    assert "theirs" in list_models() and model_card("theirs").paper == "arXiv 0000.00000"
    assert encoder.config == config and encoder.preprocessing.crop_px == 64
    assert (predictor.config.encoder_dim, predictor.config.dim, predictor.config.depth) == (96, 32, 1)
    save_encoder(tmp_path, encoder)
    assert load_encoder(tmp_path).config == config
    with pytest.raises(UserError, match="a model named 'theirs' already"):
        register_model("theirs", config)
    with pytest.raises(UserError, match="reads 1024 channels"):
        register_model("others", config, PredictorConfig())


class Doubled(VideoEncoder):
    """Twice the tokens of its base class."""

    def layer_outputs(self, video, depths, keep=None):
        return [2 * x for x in super().layer_outputs(video, depths, keep)]


def test_a_class_of_ones_own_is_added_from_outside(registry, tmp_path):
    config = EncoderConfig(32, 2, 2, 64)
    unregistered = Doubled(config)
    with pytest.raises(UserError, match="Doubled is not the class of a registered architecture"):
        save_encoder(tmp_path, unregistered, Preprocessing())
    register_model("doubled", config, module=Doubled)
    encoder = create_model("doubled").eval()
    save_encoder(tmp_path, encoder)
    video = torch.randn(1, 3, 4, 32, 32)
    again = load_encoder(tmp_path)
    assert type(again) is Doubled and torch.equal(again(video), encoder(video))
    assert torch.equal(create_model("doubled", weights=tmp_path)(video), encoder(video))
    register_model("plain", config)
    with pytest.raises(UserError, match="holds a Doubled, and plain is a VideoEncoder"):
        create_model("plain", weights=tmp_path)
    del architectures.ENTRIES["doubled"]
    with pytest.raises(UserError, match="no model named 'doubled'"):
        load_encoder(tmp_path)


def test_predictor_defaults_come_with_the_architecture():
    """Published ones from 768 channels on, half the width and depth below."""
    for name in ("vit_large", "vjepa2_vit_large_256"):
        config = entry_of(name).predictor
        assert (config.dim, config.depth, config.num_heads, config.mlp_dim) == (384, 12, 12, 1536)
    config = entry_of("vit_nano").predictor
    assert (config.dim, config.depth, config.num_heads, config.mlp_dim) == (64, 2, 2, 256)
    tiled = default_predictor(EncoderConfig(64, 1, 2, 64, position="tiled"))
    assert (tiled.position, tiled.dim, tiled.depth) == ("tiled", 32, 1)


def test_models_know_their_preprocessing():
    frames = torch.randint(0, 256, (2, 3, 300, 500), dtype=torch.uint8)
    assert create_model("vit_nano").preprocess(frames).shape == (3, 2, 224, 224)
    with pytest.raises(UserError, match="uint8"):
        create_model("vit_nano").preprocess(frames.float())


def test_documented_table_is_the_generated_one():
    assert cards_table() in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_rooms_import_with_torch_and_einops_alone():
    """Everything else that is installed is blocked, timm too, which only `timm_models` and `image_backbone` import."""
    script = """
        import sys
        import einops, torch
        allowed = {name.split(".")[0] for name in sys.modules} | {"jepa", "torch", "einops"} | sys.stdlib_module_names
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] not in allowed:
                    raise ImportError(f"{name} is blocked")
        for name in ("safetensors", "transformers", "timm", "torchvision", "numpy", "huggingface_hub", "onnx"):
            allowed.discard(name)
            for loaded in [m for m in sys.modules if m.split(".")[0] == name and name != "numpy"]:
                del sys.modules[loaded]
        sys.meta_path.insert(0, Block())
        import jepa.models as models
        encoder = models.create_model("vit_nano").eval()
        assert encoder(torch.zeros(1, 3, 2, 32, 32)).shape == (1, 4, 128)
        encoder.preprocess(torch.zeros(2, 3, 300, 300, dtype=torch.uint8))
        torch.save({"encoder": encoder.state_dict()}, sys.argv[1])
        try:
            models.load_encoder("nobody/nothing")
        except models.encoder.UserError as error:
            assert "pip install 'jepa-video[hf]'" in str(error), error
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), f"{folder}/a.pt"],
            check=True,
            cwd=ROOT,
            timeout=120,
        )


def test_hub_entry_points():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    encoder = torch.hub.load(str(ROOT), "vit_nano", source="local", patch_px=8)
    assert encoder.config.patch_px == 8
    assert set(list_models()) <= set(dir(hubconf))
    predictor = torch.hub.load(str(ROOT), "predictor", "vit_nano", source="local")
    assert predictor.config.encoder_dim == 128
