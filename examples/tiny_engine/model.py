"""A mixture-of-experts language model of Qwen3-MoE's shape, small, with random weights.

Every sum has a fixed order and every matrix product a fixed shape, whatever else is in the batch: a
token's logits have the same bits alone, among others, and whichever replica computes its experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

TILE = 8  # rows of each matrix product; those that are missing are zeros


@dataclass(frozen=True)
class Config:
    """Names and rules as in Qwen3-MoE's ``config.json``; the sizes are small."""

    vocab_size: int = 512
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    num_experts: int = 16
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 48
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [n, in] times a weight [out, in], tile by tile: each row's bits are its own.

    Multiplied and summed, not by a matrix product: that of MKL gave a row other bits in another
    place of the same tile, for some shapes.
    """
    out = x.new_empty(len(x), len(weight))
    for start in range(0, len(x), TILE):
        rows = x[start : start + TILE]
        tile = x.new_zeros(TILE, 1, x.shape[1])
        tile[: len(rows), 0] = rows
        out[start : start + TILE] = (tile * weight).sum(dim=2)[: len(rows)]
    return out


def expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return what one expert makes of tokens [n, H]: gate_up [2 I, H], down [H, I]."""
    gate, up = product(x, gate_up).chunk(2, dim=1)
    return product(silu(gate) * up, down)


Experts = Callable[[int, Tensor, Tensor], Tensor]
"""Layer, tokens [n, H], their experts [n, k] ascending: what each made of its token [n, k, H]."""


class Model:
    """The model without its experts, and a cache of keys and values for each request.

    Parameters
    ----------
    config : Config
    seed : int
        Of all weights, the same on every rank.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config, self.seed = config, seed
        c = config
        sizes = {
            "q": (c.num_attention_heads * c.head_dim, c.hidden_size),
            "k": (c.num_key_value_heads * c.head_dim, c.hidden_size),
            "v": (c.num_key_value_heads * c.head_dim, c.hidden_size),
            "o": (c.hidden_size, c.num_attention_heads * c.head_dim),
            "router": (c.num_experts, c.hidden_size),
        }
        draw = torch.Generator().manual_seed(seed)
        self.layers = [
            {name: torch.randn(size, generator=draw) * size[1] ** -0.5
             for name, size in sizes.items()}
            for _ in range(c.num_hidden_layers)
        ]  # fmt: skip
        for layer in self.layers:  # some experts are asked more often, as in trained models
            layer["liked"] = torch.randn(c.num_experts, generator=draw) * 0.8
        self.embedding = torch.randn(c.vocab_size, c.hidden_size, generator=draw)
        self.head = torch.randn(c.vocab_size, c.hidden_size, generator=draw) * c.hidden_size**-0.5

    def expert_weights(self, layer: int, number: int) -> tuple[Tensor, Tensor]:
        """Return gate_up [2 I, H] and down [H, I] of one expert: what a checkpoint holds."""
        c = self.config
        draw = torch.Generator().manual_seed(self.seed * 7919 + layer * 1009 + number + 1)
        gate_up = torch.randn(2 * c.moe_intermediate_size, c.hidden_size, generator=draw)
        down = torch.randn(c.hidden_size, c.moe_intermediate_size, generator=draw)
        return gate_up * c.hidden_size**-0.5, down * c.moe_intermediate_size**-0.5

    def norm(self, x: Tensor) -> Tensor:
        """Divide each row by its root mean square (the weights are ones)."""
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.config.rms_norm_eps)

    def step(self, requests: list[Request], experts: Experts) -> Tensor:
        """Feed one token of each request, and return the logits of the next [n, vocabulary]."""
        x = self.embedding[torch.tensor([r.token for r in requests], dtype=torch.int64)]
        caches = []
        for number, layer in enumerate(self.layers):
            mixed, new = self._attention(self.norm(x), layer, number, requests)
            caches.append(new)
            x = x + product(mixed, layer["o"])
            normed = self.norm(x)
            x = x + self._mixture(normed, layer, number, experts)
        for new in zip(*caches, strict=True) if requests else ():  # only now: a step may fail
            new[0][0].commit([pair for _, pair in new])
        return product(self.norm(x), self.head)

    def _attention(
        self, x: Tensor, layer: dict[str, Tensor], number: int, requests: list[Request]
    ) -> tuple[Tensor, list[tuple[Request, tuple[Tensor, Tensor]]]]:
        """Attend to the past, request by request: shapes depend on a request's length alone."""
        c = self.config
        q, k, v = (
            product(x, layer[name]).view(len(x), len(layer[name]) // c.head_dim, c.head_dim)
            for name in "qkv"
        )
        mixed, new = [], []
        for row, request in enumerate(requests):
            place = request.length
            query = self._rotated(self.norm(q[row]), place)
            key, value = self._rotated(self.norm(k[row]), place), v[row]
            keys = torch.cat([request.keys[number], key[None]])
            values = torch.cat([request.values[number], value[None]])
            group = c.num_attention_heads // c.num_key_value_heads
            heads = []
            for head in range(c.num_attention_heads):
                weight = (keys[:, head // group] * query[head]).sum(dim=1) * c.head_dim**-0.5
                part = torch.softmax(weight, dim=0)
                heads.append((part[:, None] * values[:, head // group]).sum(dim=0))
            mixed.append(torch.cat(heads))
            new.append((request, (keys, values)))
        return (torch.stack(mixed) if mixed else x.new_zeros(0, len(layer["o"][0]))), new

    def _rotated(self, x: Tensor, place: int) -> Tensor:
        half = self.config.head_dim // 2
        angle = place * self.config.rope_theta ** (-torch.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        sin, cos = torch.sin(angle), torch.cos(angle)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _mixture(
        self, x: Tensor, layer: dict[str, Tensor], number: int, experts: Experts
    ) -> Tensor:
        """Send tokens to their experts, and add up what comes back in the experts' order."""
        k = self.config.num_experts_per_tok
        weight = torch.softmax(product(x, layer["router"]) + layer["liked"], dim=1)
        part, chosen = weight.topk(k, dim=1)
        part = part / part.sum(dim=1, keepdim=True)
        chosen, order = chosen.sort(dim=1)
        part = part.gather(1, order)
        made, total = experts(number, x, chosen), torch.zeros_like(x)
        for place in range(k):
            total = total + part[:, place, None] * made[:, place]
        return total


class Request:
    """A prompt, what was answered so far, and the cache of both."""

    def __init__(self, number: int, prompt: list[int], answer_length: int, config: Config) -> None:
        self.number, self.prompt, self.answer_length = number, prompt, answer_length
        self.answer: list[int] = []
        self.length = 0  # tokens in the cache
        empty = torch.zeros(0, config.num_key_value_heads, config.head_dim)
        self.keys = [empty] * config.num_hidden_layers
        self.values = [empty] * config.num_hidden_layers

    @property
    def token(self) -> int:
        """The token to be fed next."""
        return (self.prompt + self.answer)[self.length]

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return len(self.answer) == self.answer_length

    def commit(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Keep the keys and values of a step that came to its end."""
        self.keys, self.values = [k for k, _ in pairs], [v for _, v in pairs]
        self.length += 1

    def take(self, logits: Tensor) -> None:
        """Take the likeliest token as the next of the answer, once the prompt is through."""
        if self.length >= len(self.prompt):
            self.answer.append(int(logits.argmax()))


def make_request(number: int, config: Config) -> Request:
    """Return the request of a number, the same in every process."""
    draw = torch.Generator().manual_seed(90001 + number)
    length = int(torch.randint(3, 9, (1,), generator=draw))
    prompt = torch.randint(config.vocab_size, (length,), generator=draw).tolist()
    return Request(number, prompt, int(torch.randint(8, 17, (1,), generator=draw)), config)


def answer_alone(model: Model, numbers: list[int]) -> list[list[int]]:
    """Answer requests in this process, without any balancer: what is right."""
    known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def experts(layer: int, x: Tensor, chosen: Tensor) -> Tensor:
        made = x.new_empty(*chosen.shape, x.shape[1])
        for e in set(chosen.reshape(-1).tolist()):
            if (layer, e) not in known:
                known[layer, e] = model.expert_weights(layer, e)
            row, place = (chosen == e).nonzero(as_tuple=True)
            made[row, place] = expert(x[row], *known[layer, e])
        return made

    requests = [make_request(number, model.config) for number in numbers]
    while waiting := [request for request in requests if not request.done]:
        for request, logits in zip(waiting, model.step(waiting, experts), strict=True):
            request.take(logits)
    return [request.answer for request in requests]
