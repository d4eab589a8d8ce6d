"""Small-E: a language model of codec tokens with gated linear attention (Lemerle, Obin, Roebel, arXiv 2406.04467).

Text is encoded once. The audio side is a stack of causal blocks with one position-aware cross-attention (PACA) in its
middle, which reads the text through an expected position and so keeps moving forward. Both published dialects are built
from one configuration (spec small-e, section 0), with the parameter names of the published checkpoints (section 7.2).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.speech.gla import NORM_EPS, GatedLinearAttention, MixerState, MixingBlock, SwiGLU, TimeMixer
from avatarlab.speech.mamba2 import Mamba2
from avatarlab.speech.rwkv6 import RWKV6

PAD, BOS, EOS, FIRST_CODE = 0, 1, 2, 3
POSITION_ROWS = 2000
POSITION_TAPS = 31

BLOCK = r"attentive_rnn\.(?:encoder|decoder)\.\d+\."  # keys of the causal blocks in the published layout
Mixer = Literal["gla", "rwkv6", "mamba2"]


@dataclass(frozen=True)
class SmallEConfig:
    """Sizes of a network; `expand_k` and `expand_v` are the widths of all keys and of all values over `width`.

    `mixer` is the time mixer of every causal block. `short_conv` is a choice of GLA: Mamba2 always has its convolution,
    RWKV6 its token shift.
    """

    width: int = 256
    text_vocabulary: int = 256
    text_layers: int = 2
    text_heads: int = 4
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    heads: int = 4
    expand_k: float = 0.5
    expand_v: float = 1.0
    short_conv: bool = True
    mixer: Mixer = "gla"
    positions: Literal["sinusoidal", "convolutional"] = "sinusoidal"
    position_rows: int = POSITION_ROWS
    position_width: int = 64
    rotary_attention: bool = False
    codebooks: int = 2
    codebook_size: int = 1024
    tied: bool = False
    dropout_text: float = 0.1
    dropout_attention: float = 0.1

    def __post_init__(self) -> None:
        if (
            min(self.width, self.text_vocabulary, self.heads, self.position_width, self.codebooks, self.codebook_size)
            < 1
        ):
            raise SettingsError("a Small-E size is zero or negative", "give positive sizes")
        if self.mixer != "gla" and not self.short_conv:
            raise SettingsError(f"short_conv is off for {self.mixer}", "leave short_conv on; only gla can do without")
        for width in (self.width, self.position_width):
            for expand in (self.expand_k, self.expand_v):
                if round(width * expand) % self.heads or round(width * expand) < self.heads:
                    raise SettingsError(
                        f"{self.heads} heads do not divide width {width} times {expand}", "change heads or widths"
                    )
        if self.text_layers and self.width % self.text_heads:
            raise SettingsError(f"{self.text_heads} text heads do not divide width {self.width}", "change text_heads")
        if self.positions == "sinusoidal" and self.position_width % 2:
            raise SettingsError(
                f"sinusoidal positions of odd width {self.position_width}", "use an even position_width"
            )

    @property
    def vocabulary(self) -> int:
        return self.codebook_size + FIRST_CODE


class Rotary(nn.Module):
    """Rotation of the first 2 * frequencies channels in adjacent pairs; the rest passes through (spec 1.2)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        count = channels // 2
        exponent = torch.arange(count, dtype=torch.float32) * 2 / max(channels, 1)
        self.register_buffer("freqs", 10000.0**-exponent)

    def forward(self, x: Float[Tensor, "*b t e"], positions: Int[Tensor, "*b t"]) -> Float[Tensor, "*b t e"]:
        return rotate(x, positions[..., None] * self.freqs)


def rotate(x: Float[Tensor, "*b e"], angles: Float[Tensor, "*b p"]) -> Float[Tensor, "*b e"]:
    """Turns the channel pairs (0, 1), (2, 3), ... by the p given angles."""
    turned, rest = x.split([2 * angles.shape[-1], x.shape[-1] - 2 * angles.shape[-1]], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return torch.cat((pairs.flatten(-2), rest), dim=-1)


class SelfAttention(nn.Module):
    """Non-causal attention with partial rotary positions and no output projection (spec 1.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.rotary = Rotary(width // heads // 2)

    def forward(self, x: Float[Tensor, "b j d"], allowed: Bool[Tensor, "b j j"]) -> Float[Tensor, "b j d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, heads, j, d / heads)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.rotary.freqs
        angles = angles.expand(*q.shape[:2], *angles.shape)
        mixed = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v, attn_mask=allowed[:, None])
        return mixed.transpose(1, 2).flatten(2)


class TextBlock(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.tmix = SelfAttention(width, heads)
        self.cmix = SwiGLU(width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b j d"], allowed: Bool[Tensor, "b j j"]) -> Float[Tensor, "b j d"]:
        x = x + self.tmix(self.norm1(x), allowed)
        x = x + self.cmix(self.norm2(x))
        return F.dropout(x, self.dropout, self.training)


class TextEncoder(nn.Module):
    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.sa = nn.ModuleList(
            TextBlock(config.width, config.text_heads, config.dropout_text) for _ in range(config.text_layers)
        )

    def forward(self, x: Float[Tensor, "b j d"], mask: Bool[Tensor, "b j"]) -> Float[Tensor, "b j d"]:
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        allowed = mask[:, :, None] & mask[:, None, :] | itself
        for block in self.sa:
            x = block(x, allowed)
        return x


def sinusoidal_positions(rows: int, width: int, device: torch.device | None = None) -> Float[Tensor, "j p"]:
    """All sines, then all cosines (spec 4.1).

    >>> [round(float(x), 4) for x in sinusoidal_positions(2, 4)[1]]
    [0.8415, 0.01, 0.5403, 0.9999]
    """
    rates = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float32, device=device) * 2 / width)
    angles = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ConvolutionalPositions(nn.Module):
    """A learned table smoothed over 31 rows, so that both ends of a text are felt within 15 units of them (spec 4.1).

    Rows beyond a text's own length are zero before the convolution, so that padding does not change its positions.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, width)
        self.dw_conv = nn.Conv1d(width, width, POSITION_TAPS, padding=POSITION_TAPS // 2, groups=width)

    def forward(self, mask: Bool[Tensor, "b j"]) -> Float[Tensor, "b j p"]:
        rows = self.embed.weight[: mask.shape[1]] * mask[..., None]
        return self.dw_conv(rows.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class TextMemory:
    """All that the audio side needs of a text: keys (rotated if the dialect does), values, positions and the mask."""

    keys: Float[Tensor, "b j d"]
    values: Float[Tensor, "b j d"]
    positions: Float[Tensor, "b j p"]
    mask: Bool[Tensor, "b j"]


def mixing_block(config: SmallEConfig, width: int) -> MixingBlock:
    """A block of this width with the configured time mixer."""
    sizes = (width, config.heads, config.expand_k, config.expand_v)
    mixer: TimeMixer
    match config.mixer:
        case "gla":
            mixer = GatedLinearAttention(*sizes, config.short_conv)
        case "rwkv6":
            mixer = RWKV6(*sizes)
        case "mamba2":
            mixer = Mamba2(*sizes)
    return MixingBlock(width, mixer)


class PositionAwareAttention(nn.Module):
    """PACA (spec 4): content selects an expected position, a causal network moves it, that position selects content."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        width = config.width
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.pos_net = mixing_block(config, config.position_width)
        self.pos_embed = (
            ConvolutionalPositions(config.position_rows, config.position_width)
            if config.positions == "convolutional"
            else None
        )
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))
        self.rotary = Rotary(width // 2) if config.rotary_attention else None
        self.position_width = config.position_width
        self.dropout = config.dropout_attention

    def memory(self, text: Float[Tensor, "b j d"], mask: Bool[Tensor, "b j"]) -> TextMemory:
        batch, length = mask.shape
        keys = self.ln_k(self.k(text))
        if self.rotary is not None:
            keys = self.rotary(keys, torch.arange(length, device=text.device).expand(batch, -1))
        if self.pos_embed is not None:
            positions = self.pos_embed(mask)
        else:
            positions = sinusoidal_positions(length, self.position_width, text.device).expand(batch, -1, -1)
        first = torch.arange(length, device=text.device) == 0
        return TextMemory(keys, self.ln_v(self.v(text)), positions, mask | first)  # no row may be empty

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        memory: TextMemory,
        lengths: Int[Tensor, "b"] | None = None,
        guide: Float[Tensor, "b t j"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b 2 t j"], MixerState]:
        """`guide` replaces its own share (row sums, 0 to 1) of the position selection: teacher forcing for training."""
        q = self.ln_q(self.q(x))
        if self.rotary is not None:
            q = self.rotary(q, torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1))
        selected = masked_attention(q, memory.keys, memory.mask)
        followed = selected if guide is None else guide + (1 - guide.sum(-1, keepdim=True)) * selected
        expected = F.dropout(followed, self.dropout, self.training) @ memory.positions
        moved, state = self.pos_net(expected, lengths)
        alignment = masked_attention(moved, memory.positions, memory.mask)
        content = F.dropout(alignment, self.dropout, self.training) @ memory.values
        return content, torch.stack((selected, alignment), dim=1), state


def masked_attention(
    q: Float[Tensor, "b t e"], k: Float[Tensor, "b j e"], mask: Bool[Tensor, "b j"]
) -> Float[Tensor, "b t j"]:
    """softmax(q k^T / sqrt(e)) over the true entries of the mask."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)


class AttentiveRNN(nn.Module):
    """Encoder blocks, x + PACA(x, text), decoder blocks (spec 3.1)."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(mixing_block(config, config.width) for _ in range(config.encoder_blocks))
        self.decoder = nn.ModuleList(mixing_block(config, config.width) for _ in range(config.decoder_blocks))
        self.cross_att = PositionAwareAttention(config)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        memory: TextMemory,
        lengths: Int[Tensor, "b"] | None = None,
        guide: Float[Tensor, "b t j"] | None = None,
        states: Sequence[Float[Tensor, "*_ n k v"] | None] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b 2 t j"], list[MixerState]]:
        """Also returns the states in call order: encoder blocks, PosNet, decoder blocks.

        `states` are the start memories of the encoder and decoder blocks, each for all rows or one per row; PosNet
        always starts at zero (spec 6.5).
        """
        count = len(self.encoder)
        starts = [None] * (count + len(self.decoder)) if states is None else states
        finals = []
        for block, start in zip(self.encoder, starts[:count], strict=True):
            x, final = block(x, lengths, start)
            finals.append(final)
        content, attention, final = self.cross_att(x, memory, lengths, guide)
        finals.append(final)
        x = x + content
        for block, start in zip(self.decoder, starts[count:], strict=True):
            x, final = block(x, lengths, start)
            finals.append(final)
        return x, attention, finals


class CodebookTable(nn.Module):
    """One table of ids per codebook, as input embedding or as output head (spec 2.3)."""

    def __init__(self, codebooks: int, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codebooks, rows, width))


class Unfilled(TorchFunctionMode):
    """Networks built inside draw no random numbers: their parameters hold anything, for they are about to be replaced.

    The meta device serves the same end, but its arithmetic imports the compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.uniform_, Tensor.normal_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


class SmallE(nn.Module):
    """The network. `SmallE(config)` is untrained (spec 3.5); `SmallE.from_state_dict` loads the published layout."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.config = config
        self.txt_embed = nn.Embedding(config.text_vocabulary, config.width, padding_idx=PAD)
        self.txt_encoder = TextEncoder(config)
        self.attentive_rnn = AttentiveRNN(config)
        self.rvq_embed = CodebookTable(config.codebooks, config.vocabulary, config.width)
        self.logits_head = CodebookTable(config.codebooks, config.vocabulary, config.width)
        bound = (3 / config.width) ** 0.5
        nn.init.uniform_(self.logits_head.weight, -bound, bound)
        nn.init.normal_(self.rvq_embed.weight)
        self._tie()

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "SmallE":
        """A network in evaluation mode, float32, from tensors in the published layout, `model.` prefix or not.

        Every size comes from the tensors (spec 7.2). Raises WeightsError naming up to five keys that are missing,
        unknown or of the wrong shape.
        """
        tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
        try:
            config = infer_config(tensors)
        except SettingsError as error:
            raise WeightsError(
                f"not a Small-E network: {error.message}", "choose the file of a Small-E model"
            ) from error
        with Unfilled():
            model = cls(config)
        expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        given = {key: tuple(t.shape) for key, t in tensors.items() if key in expected or ".rotary." not in key}
        wrong = [f"missing {key} {shape}" for key, shape in expected.items() if key not in given]
        wrong += [f"unknown {key} {shape}" for key, shape in given.items() if key not in expected]
        wrong += [
            f"{key} is {given[key]}, not {shape}" for key, shape in expected.items() if given.get(key, shape) != shape
        ]
        if wrong:
            more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise WeightsError("Small-E weights do not fit: " + "; ".join(wrong[:5]) + more, "use an undamaged file")
        model.load_state_dict(
            {key: tensors[key].detach().to(torch.float32, copy=True) for key in expected}, strict=True, assign=True
        )
        model._tie()
        return model.eval()

    def encode_text(
        self, text_ids: Int[Tensor, "b j"], text_mask: Bool[Tensor, "b j"] | None = None
    ) -> Float[Tensor, "b j d"]:
        """Text memory of ids that include BOS and EOS; where the mask is false the result means nothing."""
        mask = torch.ones_like(text_ids, dtype=torch.bool) if text_mask is None else text_mask
        return self.txt_encoder(self.txt_embed(text_ids), mask)

    def read_text(self, text_ids: Int[Tensor, "b j"], text_mask: Bool[Tensor, "b j"]) -> TextMemory:
        """The text as the audio side wants it: computed once for an utterance."""
        return self.attentive_rnn.cross_att.memory(self.encode_text(text_ids, text_mask), text_mask)

    def embed_audio(self, audio_ids: Int[Tensor, "b t q"]) -> Float[Tensor, "b t d"]:
        """Sum of the codebooks' embeddings."""
        rows = [F.embedding(audio_ids[..., i], self.rvq_embed.weight[i]) for i in range(self.config.codebooks)]
        return torch.stack(rows).sum(0) if len(rows) > 1 else rows[0]

    def head(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t q c"]:
        return F.linear(x, self.logits_head.weight.flatten(0, 1)).unflatten(-1, (self.config.codebooks, -1))

    def logits(self, text_ids: Int[Tensor, "b j"], audio_ids: Int[Tensor, "b t q"]) -> Float[Tensor, "b t q c"]:
        """Teacher-forced logits of column t + 1 after columns 0..t, texts and audio without padding."""
        everything = torch.ones_like(audio_ids[..., 0], dtype=torch.bool)
        return self.forward_train(text_ids, torch.ones_like(text_ids, dtype=torch.bool), audio_ids, everything)[0]

    def forward_train(
        self,
        text_ids: Int[Tensor, "b j"],
        text_mask: Bool[Tensor, "b j"],
        audio_ids: Int[Tensor, "b t q"],
        audio_mask: Bool[Tensor, "b t"],
        guide: Float[Tensor, "b t j"] | None = None,
        states: Sequence[Float[Tensor, "*_ n k v"] | None] | None = None,
    ) -> tuple[Float[Tensor, "b t q c"], Float[Tensor, "b 2 t j"]]:
        """Logits of the next column and the attention maps (A1, A2), of right-padded batches.

        A row's results inside its mask do not depend on the rows beside it or on what stands in its padding.
        `states` are start memories as in `AttentiveRNN.forward`.
        """
        x = self.embed_audio(audio_ids) * audio_mask[..., None]
        x, attention, _ = self.attentive_rnn(x, self.read_text(text_ids, text_mask), guide=guide, states=states)
        return self.head(x), attention

    def _tie(self) -> None:
        if self.config.tied:
            self.rvq_embed.weight = self.logits_head.weight


def token_loss(
    logits: Float[Tensor, "b t q c"],
    targets: Int[Tensor, "b t q"],
    mask: Bool[Tensor, "b t"],
    ignore_bos: bool = True,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the true entries of the mask, all codebooks alike (spec 5.1).

    `ignore_bos` leaves out the repeated BOS of delayed codebooks (Lina dialect); the Small-E dialect counts it.
    """
    ignored = ~mask[..., None]
    if ignore_bos:
        ignored = ignored | (targets == BOS)
    return F.cross_entropy(logits.flatten(0, 2), targets.masked_fill(ignored, -100).flatten())


def pad_rows(rows: Sequence[Int[Tensor, "_ *x"]]) -> tuple[Int[Tensor, "b t *x"], Bool[Tensor, "b t"]]:
    """One batch of sequences of different lengths, right-padded with PAD, and the mask of what is real.

    >>> ids, mask = pad_rows([torch.tensor([5, 6]), torch.tensor([7])])
    >>> ids.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[True, True], [True, False]])
    """
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def infer_config(tensors: Mapping[str, Tensor]) -> SmallEConfig:
    """The sizes that most tensors agree on, so that one bad tensor is named by its own key (spec 7.2, loader rule).

    Dropouts are not in the tensors: they are set to zero. Raises WeightsError if a size cannot be told.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    width = _agreed(
        shapes, "width", [("txt_embed.weight", 1), (r".*cross_att\.ln_[qkv]\.weight", 0), (BLOCK + r"norm.\.bias", 0)]
    )
    mixer, heads, key_width, value_width = _mixer_sizes(shapes)
    frequencies = _agreed(shapes, "", [(r"txt_encoder\.sa\.\d+\.tmix\.rotary\.freqs", 0)], default=width // 4)
    tables = [("rvq_embed.weight", axis) for axis in (0, 1)], [("logits_head.weight", axis) for axis in (0, 1)]
    codebooks, rows = (_agreed(shapes, "codebooks", [tables[0][axis], tables[1][axis]]) for axis in (0, 1))
    convolutional = any(".pos_embed." in key for key in shapes)
    embed, head = tensors.get("rvq_embed.weight"), tensors.get("logits_head.weight")
    return SmallEConfig(
        width=width,
        text_vocabulary=_agreed(shapes, "text vocabulary", [("txt_embed.weight", 0)], default=256),
        text_layers=_count(shapes, "txt_encoder.sa"),
        text_heads=max(1, width // (4 * max(1, frequencies))),
        encoder_blocks=_count(shapes, "attentive_rnn.encoder"),
        decoder_blocks=_count(shapes, "attentive_rnn.decoder"),
        heads=heads,
        expand_k=key_width / width,
        expand_v=value_width / width,
        short_conv=mixer != "gla" or any("_conv1d." in key for key in shapes),
        mixer=mixer,
        positions="convolutional" if convolutional else "sinusoidal",
        position_rows=_agreed(shapes, "", [(r".*pos_embed\.embed\.weight", 0)], default=POSITION_ROWS),
        position_width=_agreed(shapes, "position width", [(r".*pos_net\.norm.\.(weight|bias)", 0)]),
        rotary_attention="attentive_rnn.cross_att.rotary.freqs" in shapes,
        codebooks=codebooks,
        codebook_size=rows - FIRST_CODE,
        tied=embed is not None and head is not None and (embed is head or torch.equal(embed, head)),
        dropout_text=0.0,
        dropout_attention=0.0,
    )


def _mixer_sizes(shapes: Mapping[str, Sequence[int]]) -> tuple[Mixer, int, int, int]:
    """The time mixer, told by a tensor that only it has, its heads and the widths of all its keys and values."""

    def agreed(name: str, *places: tuple[str, int]) -> int:
        return _agreed(shapes, name, [(BLOCK + r"tmix\." + pattern, axis) for pattern, axis in places])

    value_width = agreed("value width", (r"[vg]_proj\.weight", 0), (r"(?:o|out)_proj\.weight", 1))
    if any(key.endswith(".tmix.A_log") for key in shapes):
        heads = agreed("heads", ("A_log", 0), ("D", 0), ("dt_bias", 0))
        convolved = agreed("state width", (r"conv1d\.weight", 0), (r"conv1d\.bias", 0))
        return "mamba2", heads, heads * (convolved - value_width) // 2, value_width
    key_width = agreed("key width", (r"[qkr]_proj\.weight", 0), (r"gk_proj\.1\.bias", 0))
    if any(key.endswith(".tmix.bonus") for key in shapes):
        return "rwkv6", agreed("heads", ("bonus", 0)), key_width, value_width
    head_width = agreed("head width", (r"g_norm_swish_gate\.weight", 0))
    return "gla", max(1, value_width // max(1, head_width)), key_width, value_width


def _agreed(
    shapes: Mapping[str, Sequence[int]], name: str, places: Sequence[tuple[str, int]], default: int | None = None
) -> int:
    """The most frequent size among the axes of the keys that match; of equally frequent ones the first met."""
    votes = Counter(
        shape[axis]
        for pattern, axis in places
        for key, shape in shapes.items()
        if re.fullmatch(pattern, key) and axis < len(shape)
    )
    if votes:
        return votes.most_common(1)[0][0]
    if default is not None:
        return default
    raise WeightsError(
        f"not a Small-E network: no tensor tells its {name} (missing {places[0][0]})",
        "choose the file of a Small-E model",
    )


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(match[1]) + 1 for key in shapes if (match := pattern.match(key))), default=0)
