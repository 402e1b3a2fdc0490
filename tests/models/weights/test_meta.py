"""Meta's files: every prefix, every kind told from its keys, and every damage refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from jepa.errors import UserError
from jepa.models import (
    AttentiveClassifier,
    EncoderConfig,
    PoolerConfig,
    Predictor,
    TokenGrid,
    VideoEncoder,
    create_model,
    create_predictor,
    load_classifiers,
    load_encoder,
    load_predictor,
)
from jepa.models.rope import sincos_table
from jepa.models.weights import meta as meta_format


def meta_state(module: nn.Module, prefix: str = "module.backbone.") -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in module.state_dict().items():
        if isinstance(module, Predictor):
            if name == "mask_tokens":
                state |= {f"{prefix}mask_tokens.{i}": row[None, None].clone() for i, row in enumerate(tensor)}
                continue
            name = name if name.endswith("mod_embed") else f"predictor_{name}"
        state[prefix + name] = tensor
    return state


def save_meta(path: Path, **parts) -> Path:
    torch.save(
        {**parts, "opt": {"state": {}, "param_groups": []}, "epoch": 3, "lr": 1e-4, "scaler": None}, path
    )
    return path


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("prefix", ["module.backbone.", "module.", "backbone.", ""])
def test_meta_file_of_every_prefix(tmp_path, prefix):
    encoder = create_model("vit_nano", position="tiled")
    path = save_meta(tmp_path / "latest.pt", encoder=meta_state(encoder, prefix))
    if "backbone" not in prefix:
        with pytest.raises(UserError, match="does not say which model it holds"):
            load_encoder(path)
    again = load_encoder(path, config=None if "backbone" in prefix else encoder.config)
    assert again.config == encoder.config
    assert again.metadata["key"] == "encoder"
    assert equal(again, encoder)


def test_first_of_ema_target_and_online_encoder_is_read(tmp_path):
    names = ("encoder", "target_encoder", "ema_encoder")
    encoders = {name: create_model("vit_nano", position="tiled") for name in names}
    states = {name: meta_state(encoder) for name, encoder in encoders.items()}
    path = tmp_path / "latest.pt"
    for present, expected in ((names, "ema_encoder"), (names[:2], "target_encoder"), (names[:1], "encoder")):
        save_meta(path, **{name: states[name] for name in present})
        encoder = load_encoder(path)
        assert encoder.metadata["key"] == expected
        assert equal(encoder, encoders[expected])
    save_meta(path, **states)
    assert equal(load_encoder(path, key="encoder"), encoders["encoder"])
    with pytest.raises(UserError, match="no 'student'"):
        load_encoder(path, key="student")
    bare = tmp_path / "bare.pt"
    torch.save(states["encoder"], bare)
    assert equal(load_encoder(bare), encoders["encoder"])


def on_meta_saved(tmp_path: Path, name: str, **changes) -> Path:
    """A file with the keys and shapes of a published model; its tensors are views of one element each."""
    encoder = create_on_meta(name)
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in meta_state(encoder).items()}
    state.update({f"module.backbone.{key}": value for key, value in changes.items()})
    return save_meta(tmp_path / f"{name}.pt", target_encoder=state)


def create_on_meta(name: str) -> VideoEncoder:
    with torch.device("meta"):
        return create_model(name)


@pytest.mark.parametrize(
    "name",
    ["vjepa2_vit_large_256", "vjepa2_vit_huge_256", "vjepa2_1_vit_base_384", "vjepa2_1_vit_large_384"],
)
def test_published_architectures_are_told_from_their_keys(tmp_path, name):
    encoder = load_encoder(on_meta_saved(tmp_path, name))
    reference = create_on_meta(name)
    assert encoder.config == reference.config
    assert encoder.preprocessing == reference.preprocessing


def test_sizes_that_share_an_architecture_need_the_name(tmp_path):
    path = on_meta_saved(tmp_path, "vjepa2_vit_giant_384")
    assert load_encoder(path).preprocessing is None
    assert create_model("vjepa2_vit_giant_384", weights=path).preprocessing.crop_px == 384
    assert create_model("vjepa2_vit_giant_256", weights=path).preprocessing.crop_px == 256


def test_fixed_positions_tell_vjepa_from_vjepa2(tmp_path):
    grid = TokenGrid(8, 14, 14)
    path = on_meta_saved(tmp_path, "vjepa_vit_large_224", pos_embed=sincos_table(grid, 1024, grid)[None])
    assert load_encoder(path).config == create_on_meta("vjepa_vit_large_224").config
    wrong = sincos_table(grid, 1024, grid)[None] + 0.1
    with pytest.raises(UserError, match="not the sine-cosine ones"):
        load_encoder(on_meta_saved(tmp_path, "vjepa_vit_large_224", pos_embed=wrong))
    unused = torch.zeros(1, 2048, 1024)
    encoder = load_encoder(on_meta_saved(tmp_path, "vjepa2_vit_large_256", pos_embed=unused))
    assert encoder.config.position == "tiled"
    assert "pos_embed" in encoder.metadata["ignored"]
    with pytest.raises(UserError, match="positions for 100 tokens"):
        load_encoder(on_meta_saved(tmp_path, "vjepa2_vit_large_256", pos_embed=torch.zeros(1, 100, 1024)))


def test_weights_are_not_read_with_the_wrong_rotation(tmp_path):
    """The keys would fit; only the numbers would be wrong."""
    path = on_meta_saved(tmp_path, "vjepa2_vit_large_256")
    with pytest.raises(UserError, match="positions of kind tiled"):
        create_model("vit_large", weights=path)
    path = on_meta_saved(tmp_path, "vjepa2_1_vit_base_384")
    with pytest.raises(UserError, match="positions of kind interleaved"):
        create_model("vjepa2_1_vit_base_384", weights=path, position="tiled")


def test_weights_of_2_1_do_not_load_as_2(tmp_path):
    """Published code loads them with twelve keys dropped and two left random."""
    path = on_meta_saved(tmp_path, "vjepa2_1_vit_large_384")
    with pytest.raises(UserError, match="kind interleaved"):
        create_model("vjepa2_vit_large_256", weights=path)
    with pytest.raises(UserError) as caught:
        create_model("vit_large", weights=path)
    assert "missing: norm.weight, norm.bias" in str(caught.value)
    assert "unexpected: img_mod_embed" in str(caught.value)


def test_unpublished_sizes_need_a_config(tmp_path):
    encoder = VideoEncoder(EncoderConfig(32, 2, 2, 64, position="tiled"))
    path = save_meta(tmp_path / "small.pt", encoder=meta_state(encoder))
    with pytest.raises(UserError, match="does not state its number of heads"):
        load_encoder(path)
    assert equal(load_encoder(path, config=encoder.config), encoder)


def test_published_predictors_are_told_from_their_keys(tmp_path):
    for name in ("vjepa2_vit_large_256", "vjepa2_1_vit_base_384", "vjepa2_1_vit_giant_384"):
        predictor = create_predictor(name)
        nn.init.normal_(predictor.mask_tokens)
        path = save_meta(tmp_path / f"{name}.pt", predictor=meta_state(predictor))
        again = load_predictor(path)
        assert again.config == predictor.config
        assert equal(again, predictor)


@pytest.mark.parametrize("trained, used", [((0,), 0), ((4,), 4), ((0, 3), 1), ((), 1)])
def test_the_trained_mask_token_is_found(tmp_path, trained, used):
    predictor = create_predictor("vit_base", depth=1, position="tiled", num_mask_tokens=6)
    with torch.no_grad():
        predictor.mask_tokens[list(trained)] = 0.3
    path = save_meta(tmp_path / "latest.pt", predictor=meta_state(predictor))
    assert load_predictor(path).config.mask_index == used


def test_action_conditioned_predictor_is_refused(tmp_path):
    path = save_meta(tmp_path / "ac.pt", predictor={"module.action_encoder.weight": torch.zeros(2, 7)})
    with pytest.raises(UserError, match="conditioned on actions"):
        load_predictor(path)


@pytest.mark.parametrize(
    "theirs, heads",
    [
        (["linear"], {"label": 7}),
        (["verb_classifier", "noun_classifier", "action_classifier"], {"verb": 7, "noun": 5, "action": 3}),
        (["action_classifier"], {"action": 7}),
    ],
)
def test_probe_files(tmp_path, theirs, heads):
    probe = AttentiveClassifier(PoolerConfig(32, len(heads), 2, 16, 64), heads)
    state = {}
    for name, tensor in probe.state_dict().items():
        for ours, other in zip(heads, theirs, strict=True):
            name = name.replace(f"heads.{ours}.", f"{other}.")
        state[f"module.{name}"] = tensor
    torch.save({"classifiers": [state, state], "epoch": 1}, tmp_path / "probe.pt")
    probes = load_classifiers(tmp_path / "probe.pt")
    assert len(probes) == 2
    assert probes[1].pooler.config == probe.pooler.config
    assert (probes[0].pooler.config.num_heads, probes[0].pooler.config.norm_eps) == (16, 1e-5)
    tokens = torch.randn(2, 5, 32)
    for name, logits in probes[0].eval()(tokens).items():
        assert torch.equal(logits, probe.eval()(tokens)[name])
    with pytest.raises(UserError, match="has none of"):
        load_encoder(tmp_path / "probe.pt")


def test_files_that_are_not_probes(tmp_path):
    path = save_meta(tmp_path / "latest.pt", encoder={})
    with pytest.raises(UserError, match="not a probe file"):
        load_classifiers(path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_a_payload_is_refused_and_not_run(tmp_path, zipped):
    state = {**meta_state(create_model("vit_nano")), "payload": Payload(tmp_path / "ran")}
    path = tmp_path / "evil.pt"
    torch.save({"encoder": state}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil\.pt was refused: .*(posix|os|nt)\.system"):
        load_encoder(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_cut_short_pickle_is_refused(tmp_path, zipped, fraction):
    path = tmp_path / "short.pt"
    states = {"encoder": meta_state(create_model("vit_nano"))}
    torch.save(states, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(UserError, match=r"short\.pt (is cut short|is damaged|was refused)"):
        load_encoder(path)


def test_old_pickles_of_plain_tensors_are_read(tmp_path):
    encoder = create_model("vit_nano", position="tiled")
    path = tmp_path / "old.pt"
    torch.save({"encoder": meta_state(encoder)}, path, _use_new_zipfile_serialization=False)
    assert equal(load_encoder(path), encoder)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"encoder": {"module.step": 3}}])
def test_pickles_of_other_things_are_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=re.compile(r"not a dict|has none of|no tensor")):
        load_encoder(path)


def test_one_key_renamed_and_one_shape_off_in_a_meta_file(tmp_path):
    state = meta_state(create_model("vit_nano", position="tiled"))
    state["module.backbone.blocks.1.mlp.fc9.weight"] = state.pop("module.backbone.blocks.1.mlp.fc1.weight")
    state["module.backbone.norm.bias"] = torch.zeros(127)
    with pytest.raises(UserError) as caught:
        load_encoder(save_meta(tmp_path / "latest.pt", target_encoder=state))
    message = str(caught.value)
    assert "latest.pt (target_encoder)" in message
    assert "missing: blocks.1.mlp.fc1.weight" in message
    assert "unexpected: blocks.1.mlp.fc9.weight" in message
    assert "norm.bias is [127] instead of [128]" in message


def damaged(state: dict[str, torch.Tensor]):
    """The same state with each key renamed or misshapen in turn; of blocks, which are alike, the first and the last."""
    blocks = re.compile(r"blocks\.(\d+)\.")
    last = max(int(match[1]) for match in map(blocks.search, state) if match)
    for name, tensor in state.items():
        if (match := blocks.search(name)) and int(match[1]) not in (0, last):
            continue
        rest = {other: value for other, value in state.items() if other != name}
        yield name, {**rest, f"{name}x": tensor}
        yield name, rest
        yield name, {**rest, name: torch.zeros(()).expand([*tensor.shape[:-1], tensor.shape[-1] + 1])}
        yield name, {**rest, name: torch.zeros(()).expand([tensor.shape[0] + 1, *tensor.shape[1:]])}
        yield name, {**rest, name: torch.zeros(())}
        yield name, {**rest, name: tensor[None]}


def thin(module: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of the right shapes that takes no memory."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in meta_state(module).items()}


def test_every_single_damage_to_a_meta_file_is_refused():
    """Whichever key is hit, the answer is a UserError: no crash from inside torch, and no model."""
    with torch.device("meta"):
        encoders = create_model("vit_nano", position="tiled"), create_model("vjepa2_1_vit_base_384")
        predictor = create_predictor("vjepa2_1_vit_giant_384", depth=1, num_mask_tokens=2)
        probe = AttentiveClassifier(PoolerConfig(32, 2, 2, 16, 64), {"verb": 3, "noun": 4})
    path = Path("latest.pt")
    for encoder, configs in zip(encoders, ((None, encoders[0].config), (None,)), strict=True):
        for _, state in damaged(thin(encoder)):
            for config in configs:
                with pytest.raises(UserError):
                    meta_format.encoder_from({"encoder": state}, path, None, config)
    for _, state in damaged(thin(predictor)):
        with pytest.raises(UserError):
            meta_format.predictor_from({"predictor": state}, path, predictor.config)
    heads = {"heads.verb": "verb_classifier", "heads.noun": "noun_classifier"}
    thinned = {
        re.sub("|".join(heads), lambda match: heads[match[0]], name): tensor
        for name, tensor in thin(probe).items()
    }
    for _, state in damaged(thinned):
        with pytest.raises(UserError):
            meta_format.probes_from({"classifiers": [state]}, path, 16)
