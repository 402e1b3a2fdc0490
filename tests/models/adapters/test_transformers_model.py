"""Encoders as transformers models: outputs, attention, activation checkpointing, names of the config."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from jepa.models import EncoderConfig, Preprocessing, VideoEncoder

transformers = pytest.importorskip("transformers")
adapter = pytest.importorskip("jepa.models.adapters.transformers_model")

SMALL = EncoderConfig(48, 3, 2, 96, image_tokenizer=True, modality_embedding=True, output_layers=(1, 3))


@pytest.fixture
def model():
    config = adapter.JepaEncoderConfig(asdict(SMALL), asdict(Preprocessing(4, 4.0, 64, 48)))
    return adapter.JepaEncoderModel(config).eval()


def video() -> torch.Tensor:
    return torch.randn(2, 4, 3, 48, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_outputs_in_the_forms_of_transformers(model):
    encoder: VideoEncoder = model.encoder
    clip = video().transpose(1, 2)
    plain = model(video())
    assert torch.equal(plain.last_hidden_state, encoder(clip))
    assert plain.hidden_states is None
    out = model(video(), output_hidden_states=True)
    assert len(out.hidden_states) == 4
    for depth, tokens in encoder.block_outputs(clip, range(4)).items():
        assert torch.equal(out.hidden_states[depth], tokens)
    assert torch.equal(model(video(), return_dict=False)[0], plain.last_hidden_state)
    model.config.output_hidden_states = True
    assert len(model(video(), return_dict=False)[1]) == 4


@torch.no_grad()
def test_attention_weights_mix_the_values_into_what_the_block_computes(model):
    out = model(video(), output_hidden_states=True, output_attentions=True)
    assert [tuple(weights.shape) for weights in out.attentions] == [(2, 2, 12, 12)] * 3
    block = model.encoder.blocks[1]
    normed = block.norm1(out.hidden_states[1])
    value = block.attn.qkv(normed).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)[2]
    mixed = block.attn.proj((out.attentions[1] @ value).transpose(1, 2).flatten(-2))
    after = out.hidden_states[1] + mixed
    expected = after + block.mlp(block.norm2(after))
    assert torch.allclose(out.hidden_states[2], expected, atol=1e-5)
    assert not block.attn._forward_pre_hooks


@torch.no_grad()
def test_eager_attention_gives_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    eager = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.allclose(eager(video()).last_hidden_state, model(video()).last_hidden_state, atol=1e-5)
    assert eager.encoder.preprocessing == model.encoder.preprocessing
    with pytest.raises(ValueError, match="Flash"):
        transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_activation_checkpointing_gives_the_same_gradients(model):
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(video()).last_hidden_state.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*gradients, strict=True))
    assert "forward" in vars(model.encoder.blocks[0])
    model.gradient_checkpointing_disable()
    assert "forward" not in vars(model.encoder.blocks[0])


def test_config_has_the_names_that_tools_read(model):
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 2)
    assert (config.intermediate_size, config.patch_size, config.tubelet_size) == (96, 16, 2)
    assert adapter.JepaEncoderConfig().hidden_size == 1024
    assert model.get_input_embeddings() is model.encoder.patch_embed
    with pytest.raises(AttributeError, match="no attribute 'hiden_size'"):
        _ = config.hiden_size
