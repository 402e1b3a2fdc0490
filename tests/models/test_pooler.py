"""AttentivePooler and classifier against torch's own attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import AttentiveClassifier, AttentivePooler, PoolerConfig

CONFIG = PoolerConfig(32, num_queries=2, depth=3, num_heads=4, mlp_dim=64)


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return module.eval()


@torch.no_grad()
def test_cross_attention_matches_torch():
    """torch's attention with an identity as the output projection, which the published block does not have."""
    block = seeded(AttentivePooler(CONFIG)).cross_attention_block
    tokens = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    queries = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(2))
    reference = nn.MultiheadAttention(32, 4, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([block.xattn.q.weight, block.xattn.kv.weight]),
            "in_proj_bias": torch.cat([block.xattn.q.bias, block.xattn.kv.bias]),
            "out_proj.weight": torch.eye(32),
            "out_proj.bias": torch.zeros(32),
        }
    )
    normed = functional.layer_norm(tokens, (32,), block.norm1.weight, block.norm1.bias, 1e-5)
    x = queries + reference(queries, normed, normed)[0]
    normed = functional.layer_norm(x, (32,), block.norm2.weight, block.norm2.bias, 1e-5)
    x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(normed)))
    assert torch.allclose(block(queries, tokens), x, atol=1e-5)


@torch.no_grad()
def test_pooling_ignores_the_order_of_tokens():
    pooler = seeded(AttentivePooler(CONFIG))
    tokens = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    pooled = pooler(tokens)
    assert pooled.shape == (3, 2, 32)
    assert torch.allclose(pooler(tokens.flip(1)), pooled, atol=1e-5)


@torch.no_grad()
def test_each_head_reads_its_own_query():
    classifier = seeded(AttentiveClassifier(CONFIG, {"verb": 5, "noun": 3}))
    tokens = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    logits, pooled = classifier(tokens), classifier.pooler(tokens)
    assert torch.allclose(logits["verb"], classifier.heads["verb"](pooled[:, 0]))
    assert torch.allclose(logits["noun"], classifier.heads["noun"](pooled[:, 1]))


def test_published_sizes():
    """Parameters of one published probe on a 1024-channel encoder, without its classifier: 49.5 M."""
    with torch.device("meta"):
        pooler = AttentivePooler(PoolerConfig())
    assert sum(p.numel() for p in pooler.parameters()) / 1e6 == pytest.approx(49.3, abs=0.1)


def test_initial_weights():
    torch.manual_seed(0)
    pooler = AttentivePooler(PoolerConfig(128, depth=4, num_heads=4, mlp_dim=512))
    assert pooler.blocks[2].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert pooler.cross_attention_block.mlp.fc2.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert pooler.query_tokens.std().item() == pytest.approx(0.02, rel=0.3)


def test_impossible_configs_are_refused():
    with pytest.raises(UserError, match="5 heads"):
        PoolerConfig(32, num_heads=5)
    with pytest.raises(UserError, match="depth=0"):
        PoolerConfig(32, depth=0)
    with pytest.raises(UserError, match="3 heads need as many queries"):
        AttentiveClassifier(CONFIG, {"verb": 1, "noun": 2, "action": 3})
