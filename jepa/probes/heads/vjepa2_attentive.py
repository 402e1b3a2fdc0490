"""The attentive probe of V-JEPA 2, stacked: three self-attention blocks, then one query.

`jepa.models.AttentiveClassifier` is one such head and loads published weights. Here G of them for each of S seeds are
one module, give the same scores, and train together. Architecture: facebookresearch/vjepa2,
src/models/attentive_pooler.py.

What makes the stack cheaper than its heads one by one:
- the first norm and the first projection read the same cached tokens for all heads, so they are one product, and no
  gradient goes back to the tokens;
- every norm's scale and offset are folded into the weights that follow, so that norms touch tokens once;
- the last layer's key and value projections are folded into the query and into what was read, as in `StackedAttentive`;
- with `torch.bfloat16`, products run in bfloat16 with weights, norms and residuals in float32. On a CPU with AMX
  that is what counts.

Axes: S seeds, G heads per seed, H = S G, B samples, N tokens, D channels, A attention heads, d = D / A, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import AttentiveClassifier, PoolerConfig
from jepa.models.layers import INIT_STD, init_block_weights
from jepa.probes.heads.stacked import StackedHeads

ATTENTION_HEADS = 16  # of every published probe, whatever its encoder has


def classifier_config(channels: int, depth: int = 4) -> PoolerConfig:
    """The published shape for tokens of `channels`; narrow ones that 16 heads do not divide get fewer heads.

    Example:
        >>> classifier_config(1024).num_heads
        16
    """
    return PoolerConfig(
        embed_dim=channels,
        depth=depth,
        num_heads=math.gcd(ATTENTION_HEADS, channels // 2),
        mlp_dim=4 * channels,
    )


class StackedClassifiers(StackedHeads):
    """S x G attentive classifiers of one shape.

    Parameters carry the classifier's own names (with / for .) and two leading axes.

    Args:
        seeds: S.
        heads: G.
        config: shape of one head's pooler; it must have one query.
        classes: C.
        compute: dtype of matrix products.

    Raises:
        UserError: the pooler has several queries.

    Example:
        >>> heads = StackedClassifiers(seeds=1, heads=2, config=classifier_config(16, depth=1), classes=3)
        >>> heads.init([torch.Generator().manual_seed(0)])
        >>> heads.logits(torch.zeros(4, 6, 16)).shape
        torch.Size([1, 2, 4, 3])
    """

    num_heads: Tensor

    def __init__(
        self,
        seeds: int,
        heads: int,
        config: PoolerConfig,
        classes: int,
        compute: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if config.num_queries != 1:
            raise UserError(
                f"Stacked classifiers have one query per head, and this pooler has {config.num_queries}."
            )
        self.config, self.classes, self.compute = config, classes, compute
        for name, value in self._one("meta").state_dict().items():
            self.register_parameter(_key(name), nn.Parameter(torch.zeros(seeds, heads, *value.shape)))
        self.register_buffer("num_heads", torch.tensor(config.num_heads))

    @classmethod
    def of(cls, classifiers: Sequence[AttentiveClassifier]) -> StackedClassifiers:
        """A stack of given classifiers, for example those of `jepa.models.load_classifiers`.

        Raises:
            UserError: they differ in shape, or one has several outputs.
        """
        first = classifiers[0]
        if any(one.pooler.config != first.pooler.config or len(one.heads) != 1 for one in classifiers):
            raise UserError("Classifiers of one stack must have the same shape and a single output each.")
        classes = len(next(first.heads.parameters()))
        stacked = cls(1, len(classifiers), first.pooler.config, classes)
        states = [list(one.state_dict().values()) for one in classifiers]
        for parameter, *values in zip(stacked.parameters(), *states, strict=True):
            parameter.data[0] = torch.stack(values)
        return stacked

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> StackedClassifiers:
        """A stack with the shape and the weights of a state dict."""
        seeds, heads, _, _, channels = state[_key("pooler.query_tokens")].shape
        depth = 1 + sum(name.endswith("/attn/qkv/weight") for name in state)
        mlp_dim = state[_key("pooler.cross_attention_block.mlp.fc1.bias")].shape[-1]
        config = PoolerConfig(channels, 1, depth, int(state["num_heads"]), mlp_dim)
        stacked = cls(seeds, heads, config, state[_key("heads.label.bias")].shape[-1])
        stacked.load_state_dict(state)
        return stacked

    @classmethod
    def joined(cls, parts: Sequence[StackedClassifiers]) -> StackedClassifiers:
        """The heads of several stacks of one shape, in one stack."""
        state = dict(parts[0].state_dict())
        for name, _ in parts[0].named_parameters():
            state[name] = torch.cat([part.state_dict()[name] for part in parts], dim=1)
        return cls.from_state(state).to(next(parts[0].parameters()).device)

    def rebuilt(self, state: dict[str, Tensor]) -> StackedHeads:
        """Classifiers with the weights of a state, on its device and in float32."""
        device = next(iter(state.values())).device
        return self.from_state(state).to(device).eval().requires_grad_(False)

    def logits(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Logits [S, G, m, C] of tokens [m, N, D]; small batches, because every head keeps a stream of its own."""
        return super().logits(inputs, batch_size)

    def take_buffer(self, name: str, value: Tensor, rows: list[int]) -> Tensor:
        """The number of attention heads, the same for all."""
        return value

    def init(self, generators: list[torch.Generator]) -> None:
        """Starts the heads as the published ones do; all heads of a seed alike."""
        for seed, generator in enumerate(generators):
            one = self._one("meta").to_empty(device="cpu")
            one.pooler.init_weights(generator)
            init_block_weights(one.heads, INIT_STD, generator)
            for parameter, value in zip(self.parameters(), one.state_dict().values(), strict=True):
                parameter.data[seed] = value

    def keep(self, rows: Tensor) -> StackedClassifiers:
        """A stack of some of the heads, other ones for each seed.

        Args:
            rows: head numbers [S, K] of each seed.
        """
        kept = StackedClassifiers(rows.shape[0], rows.shape[1], self.config, self.classes, self.compute)
        seeds = torch.arange(len(rows)).unsqueeze(1)
        for parameter, value in zip(kept.parameters(), self.parameters(), strict=True):
            parameter.data = value.data[seeds, rows]
        return kept

    def single(self, seed: int, head: int) -> AttentiveClassifier:
        """One head as the classifier that it is."""
        one = self._one("meta")
        state = {_name(key): value.data[seed, head].clone() for key, value in self.named_parameters()}
        one.load_state_dict(state, assign=True)
        return one.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens [S, B, N, D] to logits [S, G, B, C]."""
        _, batch, count, _ = tokens.shape
        heads = self._get("pooler.query_tokens").shape[1]
        shared = self._norm(tokens.float()).flatten(1, 2).to(self.compute)  # [S, B N, D]
        stream = tokens.to(self.compute).flatten(1, 2).unsqueeze(1)  # [S, 1 -> G, B N, D]
        for number in range(self.config.depth - 1):
            block = f"pooler.blocks.{number}"
            weight, bias = self._folded(f"{block}.attn.qkv", f"{block}.norm1")
            if number == 0:
                qkv = torch.matmul(shared, weight.flatten(1, 2).mT)
                qkv = qkv.unflatten(-1, (heads, -1)).transpose(1, 2) + bias.unsqueeze(2)
            else:
                qkv = _linear(self._norm(stream), weight, bias, self.compute)
            stream = stream + self._attend(qkv.unflatten(2, (batch, count)), f"{block}.attn.proj")
            stream = stream + self._mlp(stream, f"{block}.mlp", f"{block}.norm2")
        vector = self._read(stream.expand(-1, heads, -1, -1).unflatten(2, (batch, count)))  # [S, G, B, D]
        cross = "pooler.cross_attention_block"
        vector = vector + self._mlp(vector, f"{cross}.mlp", f"{cross}.norm2")
        return _linear(vector, self._get("heads.label.weight"), self._get("heads.label.bias"), torch.float32)

    def _read(self, tokens: Tensor) -> Tensor:
        """The query's cross-attention: tokens [S, G, B, N, D] to vectors [S, G, B, D]."""
        cross, split = "pooler.cross_attention_block", (self.config.num_heads, -1)
        query = self._get("pooler.query_tokens")[:, :, 0]  # [S, G, 1, D]
        scaled = _linear(
            query, self._get(f"{cross}.xattn.q.weight"), self._get(f"{cross}.xattn.q.bias"), torch.float32
        )
        weight, bias = self._folded(f"{cross}.xattn.kv", f"{cross}.norm1")
        key, value = weight.chunk(2, dim=2)
        scaled = scaled.squeeze(2).unflatten(-1, split) * (tokens.shape[-1] // self.config.num_heads) ** -0.5
        scaled = torch.einsum("sgad,sgadc->sgac", scaled.to(self.compute), key.unflatten(2, split))
        normed = self._norm(tokens)
        # What a bias adds to every key alike does not change the softmax.
        weights = torch.matmul(normed, scaled.mT.unsqueeze(2)).softmax(dim=3)  # [S, G, B, N, A]
        read = torch.matmul(weights.mT, normed)  # [S, G, B, A, D]
        mixed = torch.einsum("sgbac,sgadc->sgbad", read, value.unflatten(2, split)).flatten(-2)
        return query + mixed + bias.chunk(2, dim=-1)[1].unsqueeze(2)

    def _attend(self, qkv: Tensor, projection: str) -> Tensor:
        """Self-attention: [S, G, B, N, 3 D] to [S, G, B N, D]."""
        parts = qkv.unflatten(-1, (3, self.config.num_heads, -1)).permute(4, 0, 1, 2, 5, 3, 6)
        query, key, value = parts.flatten(1, 4).unbind(0)  # [H B A, N, d]
        if query.dtype == torch.bfloat16 and query.device.type == "cpu":
            # PyTorch's fused backward for bfloat16 on a CPU took ten times as long as these three lines.
            scores = torch.bmm(query * query.shape[-1] ** -0.5, key.mT)
            mixed = torch.bmm(scores.softmax(-1), value)
        else:
            mixed = functional.scaled_dot_product_attention(*(x.unsqueeze(0) for x in (query, key, value)))[0]
        mixed = mixed.view(*parts.shape[1:]).permute(0, 1, 2, 4, 3, 5).flatten(-2).flatten(2, 3)
        return _linear(
            mixed, self._get(f"{projection}.weight"), self._get(f"{projection}.bias"), self.compute
        )

    def _mlp(self, stream: Tensor, name: str, norm: str) -> Tensor:
        hidden = functional.gelu(
            _linear(self._norm(stream), *self._folded(f"{name}.fc1", norm), self.compute)
        )
        return _linear(hidden, self._get(f"{name}.fc2.weight"), self._get(f"{name}.fc2.bias"), self.compute)

    def _norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self.config.norm_eps)

    def _folded(self, linear: str, norm: str) -> tuple[Tensor, Tensor]:
        """Weight [S, G, out, D] and bias [S, G, out] of a linear layer that takes in its norm's scale and offset."""
        weight, bias, scale, offset = (
            self._get(name).to(self.compute)
            for name in (f"{linear}.weight", f"{linear}.bias", f"{norm}.weight", f"{norm}.bias")
        )
        return weight * scale.unsqueeze(2), bias + torch.matmul(weight, offset.unsqueeze(-1)).squeeze(-1)

    def _get(self, name: str) -> Tensor:
        return self.get_parameter(_key(name))

    def _one(self, device: str) -> AttentiveClassifier:
        with torch.device(device):
            return AttentiveClassifier(self.config, {"label": self.classes})


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's name must not hold a dot


def _name(key: str) -> str:
    return key.replace("/", ".")


def _linear(x: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
    """x [S, G, n, in] through weight [S, G, out, in] and bias [S, G, out]."""
    flat = x.flatten(0, 1).to(compute)
    out = torch.baddbmm(
        bias.flatten(0, 1).unsqueeze(1).to(compute), flat, weight.flatten(0, 1).to(compute).mT
    )
    return out.unflatten(0, x.shape[:2])
