"""Our own export: what comes back, what is refused and why, and what loading costs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from jepa.errors import UserError
from jepa.models import (
    EncoderConfig,
    Predictor,
    PredictorConfig,
    Preprocessing,
    VideoEncoder,
    create_model,
    load_encoder,
    load_predictor,
    save_encoder,
)

SMALL = EncoderConfig(32, 2, 2, 64)
INPUT = Preprocessing(num_frames=4, fps=2.5, resize_px=40, crop_px=32)


@pytest.fixture
def export(tmp_path) -> Path:
    torch.manual_seed(0)
    save_encoder(tmp_path / "export", VideoEncoder(SMALL), INPUT, {"run": "test", "step": 7})
    return tmp_path / "export"


@torch.no_grad()
def test_export_comes_back_bit_for_bit(tmp_path):
    config = EncoderConfig(
        32,
        2,
        2,
        64,
        image_tokenizer=True,
        modality_embedding=True,
        output_layers=(1, 2),
        rope_reference_grid=16,
    )
    encoder = VideoEncoder(config).eval()
    predictor = Predictor(
        PredictorConfig(32, 2, 64, 32, 2, 2, 64, num_mask_tokens=3, mask_index=2, context_head=True)
    )
    nn.init.normal_(predictor.mask_tokens)
    save_encoder(tmp_path, encoder, INPUT, {"step": 7}, predictor)
    again, again_predictor = load_encoder(tmp_path), load_predictor(tmp_path)
    assert (again.config, again.preprocessing, again.metadata) == (config, INPUT, {"step": 7})
    assert again_predictor.config == predictor.config
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    video = torch.randn(1, 3, 4, 32, 48)
    assert torch.equal(again(video), encoder(video))
    for ours, theirs in zip(again_predictor.parameters(), predictor.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    frames = torch.randint(0, 256, (4, 3, 50, 60), dtype=torch.uint8)
    assert torch.equal(again.preprocess(frames), INPUT.apply(frames))


def test_half_precision_is_kept(tmp_path):
    save_encoder(tmp_path, VideoEncoder(SMALL).bfloat16(), INPUT, {})
    assert {p.dtype for p in load_encoder(tmp_path).parameters()} == {torch.bfloat16}


def test_training_on_loaded_weights_leaves_the_file_alone(export):
    before = (export / "encoder.safetensors").read_bytes()
    encoder = load_encoder(export)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    assert (export / "encoder.safetensors").read_bytes() == before


def test_exporting_over_a_loaded_export_is_safe(export):
    encoder = load_encoder(export)
    expected = [p.detach().clone() for p in encoder.parameters()]
    save_encoder(export, VideoEncoder(EncoderConfig(48, 1, 2, 64)), INPUT, {})
    assert all(torch.equal(p, e) for p, e in zip(encoder.parameters(), expected, strict=True))
    assert load_encoder(export).config.embed_dim == 48


def test_weights_describe_themselves_without_the_config_file(export):
    (export / "config.json").unlink()
    assert load_encoder(export).config == SMALL


def test_config_file_is_for_people(export):
    document = json.loads((export / "config.json").read_text())
    assert document["schema"] == "jepa.encoder/2"
    assert document["encoder"]["embed_dim"] == 32
    assert document["preprocessing"]["fps"] == 2.5
    assert document["metadata"] == {"run": "test", "step": 7}


def test_exports_of_the_first_schema_are_read_in_the_new_numbering(tmp_path):
    """They counted layers by block number from 0 and called them levels."""
    from safetensors.torch import load_file, save_file

    config = EncoderConfig(32, 3, 2, 64, output_layers=(1, 3))
    predictor = Predictor(PredictorConfig(32, 2, 64, 24, 1, 2, 48))
    save_encoder(tmp_path, VideoEncoder(config), INPUT, {"step": 7}, predictor)
    for name, part in (("encoder.safetensors", "encoder"), ("predictor.safetensors", "predictor")):
        fields = json.loads(json.dumps(asdict(config if part == "encoder" else predictor.config)))
        if part == "encoder":
            del fields["output_layers"]
            fields["level_layers"] = [0, 2]
        else:
            fields["levels"] = fields.pop("target_layers")
        old = {"schema": "jepa.encoder/1", part: fields, "preprocessing": asdict(INPUT), "about": {"step": 7}}
        state = load_file(tmp_path / name)
        save_file(state, tmp_path / name, metadata={"format": "pt", "jepa": json.dumps(old)})
    again = load_encoder(tmp_path)
    assert (again.config, again.preprocessing, again.metadata) == (config, INPUT, {"step": 7})
    assert load_predictor(tmp_path).config == predictor.config


def rewritten(export: Path, change) -> None:
    """The weights file with its tensors changed, header kept."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = export / "encoder.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    change(state, header)
    save_file(state, path, metadata=header)


def test_renamed_and_misshapen_keys_are_all_named(export):
    def change(state, header):
        state["blocks.0.norm1.wait"] = state.pop("blocks.0.norm1.weight")
        state["norm.bias"] = torch.zeros(31)

    rewritten(export, change)
    with pytest.raises(UserError) as caught:
        load_encoder(export)
    message = str(caught.value)
    assert "missing: blocks.0.norm1.weight" in message
    assert "unexpected: blocks.0.norm1.wait" in message
    assert "norm.bias is [31] instead of [32]" in message


def test_integers_as_weights_are_refused(export):
    rewritten(export, lambda state, header: state.update({"norm.bias": torch.zeros(32, dtype=torch.int64)}))
    with pytest.raises(UserError, match=r"not floating point: norm\.bias"):
        load_encoder(export)


def test_cut_short_export_is_refused(export):
    path = export / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged"):
        load_encoder(export)


def test_headers_of_others_are_refused(export):
    rewritten(export, lambda state, header: header.pop("jepa"))
    with pytest.raises(UserError, match="does not describe its model"):
        load_encoder(export)


def test_headers_of_other_versions_are_refused(export):
    def schema(state, header):
        header["jepa"] = json.dumps({**json.loads(header["jepa"]), "schema": "jepa.encoder/9"})

    rewritten(export, schema)
    with pytest.raises(UserError, match=r"jepa\.encoder/9"):
        load_encoder(export)


def test_unknown_fields_of_the_config_are_refused(export):
    def field(state, header):
        document = json.loads(header["jepa"])
        document["encoder"]["colour"] = "blue"
        header["jepa"] = json.dumps(document)

    rewritten(export, field)
    with pytest.raises(UserError, match=r"unknown \['colour'\]"):
        load_encoder(export)


def test_another_architecture_than_the_requested_one_is_refused(export):
    with pytest.raises(UserError, match="embed_dim is 32 instead of 128, depth is 2 instead of 4"):
        create_model("vit_nano", weights=export)
    with pytest.raises(UserError, match="Meta file"):
        load_encoder(export, key="encoder")
    with pytest.raises(UserError, match=r"export without predictor\.safetensors"):
        load_predictor(export)


def test_sources_that_are_nothing(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_encoder(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["native", "meta"])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, kind):
    """Measured in a process of its own, after every weight has been read once."""
    encoder = create_model("vjepa2_vit_large_256")
    if kind == "native":
        save_encoder(tmp_path, encoder, encoder.preprocessing, {})
        source = tmp_path
    else:
        state = {f"module.backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
        source = tmp_path / "vitl.pt"
        copy = {name: tensor.clone() for name, tensor in state.items()}
        torch.save({"encoder": state, "target_encoder": copy}, source)
    script = """
        import resource, sys
        import torch
        from jepa.models import load_encoder
        import safetensors.torch
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        encoder = load_encoder(sys.argv[1])
        sum(float(p.detach().sum()) for p in encoder.parameters())
        print((peak() - before) / sum(p.numel() * p.element_size() for p in encoder.parameters()))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(source)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(out.stdout) < 1.2


# One file, without its folder


def test_the_weights_file_alone_is_enough(export):
    by_folder, by_file = load_encoder(export), load_encoder(export / "encoder.safetensors")
    assert (by_file.config, by_file.preprocessing) == (by_folder.config, by_folder.preprocessing)
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(by_file(video), by_folder(video))


def test_the_predictor_file_alone_is_enough_and_is_no_encoder(tmp_path):
    predictor = Predictor(PredictorConfig(32, 1, 32, 24, 1, 2, 48))
    save_encoder(tmp_path, VideoEncoder(SMALL), INPUT, {}, predictor)
    assert load_predictor(tmp_path / "predictor.safetensors").config == predictor.config
    with pytest.raises(UserError, match="holds no encoder but"):
        load_encoder(tmp_path / "predictor.safetensors")
    with pytest.raises(UserError, match="holds no predictor"):
        load_predictor(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("kind", ["pickle", "pickle under a key", "safetensors"])
def test_a_bare_state_dict_is_refused_until_its_architecture_is_named(tmp_path, kind):
    """The names fit several kinds of rotary positions; the wrong kind would give features that are a little off."""
    from safetensors.torch import save_file

    encoder = create_model("vit_nano")
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(encoder.state_dict(), path)
    else:
        torch.save(encoder.state_dict() if kind == "pickle" else {"encoder": encoder.state_dict()}, path)
    with pytest.raises(UserError, match="rotary positions"):
        load_encoder(path)
    video = torch.randn(1, 3, 4, 32, 32)
    for again in (load_encoder(path, config=encoder.config), create_model("vit_nano", weights=path)):
        assert torch.equal(again(video), encoder.eval()(video))
    assert create_model("vit_nano", weights=path).preprocessing == encoder.preprocessing


def test_a_config_given_as_weights_is_named(export):
    for load in (load_encoder, load_predictor):
        with pytest.raises(UserError, match=r"config\.json is a JSON file and holds no weights"):
            load(export / "config.json")


# Wrapped modules


def wrapped(encoder: VideoEncoder, how: str) -> nn.Module:
    if how == "compiled":
        return torch.compile(encoder, backend="eager")
    if how == "data parallel and compiled":
        return torch.compile(nn.DataParallel(encoder), backend="eager")
    encoder.blocks[1] = torch.compile(encoder.blocks[1], backend="eager")
    return encoder


@pytest.mark.parametrize("how", ["compiled", "data parallel and compiled", "one block compiled"])
def test_a_wrapped_module_is_saved_under_clean_names(tmp_path, how):
    from safetensors import safe_open

    encoder = VideoEncoder(SMALL).eval()
    names = set(encoder.state_dict())
    save_encoder(tmp_path, wrapped(encoder, how), INPUT, {})
    with safe_open(tmp_path / "encoder.safetensors", framework="pt") as file:
        assert set(file.keys()) == names
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(load_encoder(tmp_path)(video), encoder(video))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_stripped_on_reading(export, tmp_path, prefix):
    encoder = load_encoder(export)

    def change(state, header):
        for name in list(state):
            state[prefix + name] = state.pop(name)

    rewritten(export, change)
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(load_encoder(export)(video), encoder(video))
    torch.save({prefix + name: tensor for name, tensor in encoder.state_dict().items()}, tmp_path / "a.pt")
    assert torch.equal(load_encoder(tmp_path / "a.pt", config=SMALL)(video), encoder(video))


def test_names_that_differ_by_a_prefix_only_are_refused(export):
    rewritten(export, lambda state, header: state.update({"module.norm.bias": torch.ones(32)}))
    with pytest.raises(UserError, match="differ only by a wrapper's prefix"):
        load_encoder(export)


def test_only_what_can_be_loaded_again_is_saved(tmp_path):
    with pytest.raises(UserError, match="a Linear cannot be loaded again"):
        save_encoder(tmp_path, nn.Linear(2, 2), INPUT)
    with pytest.raises(UserError, match="carries no preprocessing"):
        save_encoder(tmp_path, VideoEncoder(SMALL))
    assert not list(tmp_path.iterdir())
