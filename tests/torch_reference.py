"""The published networks in PyTorch, for the parity tests: dense, plain, from the specification.

Sections 1.1 to 1.4. Modules are arranged so that their state has the published names; biases stand
in front of BatchNorm as published. Sequences are [B, S, L, 4], all-zero where there is nothing;
which slots are empty is said by an explicit mask, not read off the bases.
"""

import torch
from torch import nn

from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig


class Encoder(nn.Module):
    """[N, 4, S, L] to [N, C, S, L / stride]; every slot on its own, BatchNorm over all of them."""

    def __init__(self, config: EncoderConfig, *, has_norm: bool = True):
        super().__init__()
        stem = nn.Conv2d(4, config.stem_channels, (1, config.stem_width))
        self.stem_conv = nn.Sequential(stem, nn.ELU())
        reach = config.stem_width - 1
        self.stem_padding = (reach // 2, reach - reach // 2)
        self.conv_tower = nn.ModuleList()
        inputs = config.stem_channels
        for outputs in config.channels:
            conv = nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1))
            norm = [nn.BatchNorm2d(outputs)] if has_norm else []
            self.conv_tower.append(nn.Sequential(conv, *norm, nn.ELU(), nn.MaxPool2d((1, 2))))
            self.conv_tower.append(nn.Sequential(nn.Conv2d(outputs, outputs, (1, 1)), nn.ELU()))
            inputs = outputs

    def forward(self, x):
        x = self.stem_conv(nn.functional.pad(x, self.stem_padding))
        for halve, residual in zip(self.conv_tower[0::2], self.conv_tower[1::2], strict=True):
            x = halve(x)
            x = x + residual(x)
        return x


class Activity(nn.Module):
    """[N, L, 4] to [N]: the 256 bp network, and its two variants with another middle or head."""

    def __init__(self, config: ActivityConfig, *, has_norm: bool = True):
        super().__init__()
        self.encoder = Encoder(config.encoder, has_norm=has_norm)
        channels = config.encoder.channels[-1]
        plan = zip(config.mixer_widths, config.mixer_dilations, config.mixer_channels, strict=True)
        mixer = []
        for width, dilation, outputs in plan:
            conv = nn.Conv2d(channels, outputs, (1, width), dilation=(1, dilation), padding="same")
            mixer += [conv, nn.BatchNorm2d(outputs), nn.ELU()]
            channels = outputs
        if mixer:
            self.encoder.conv_out = nn.Sequential(*mixer)
        inputs = channels * config.window_bp // config.encoder.stride
        head = [nn.Flatten()]
        for _ in range(2 if config.hidden else 0):
            head += [nn.Linear(inputs, config.hidden), nn.BatchNorm1d(config.hidden)]
            head += [nn.ReLU(), nn.Dropout(config.dropout)]
            inputs = config.hidden
        self.embedToAct = nn.Sequential(*head, nn.Linear(inputs, 1))

    def forward(self, bases):
        x = self.encoder(bases.transpose(1, 2)[:, :, None])
        if hasattr(self.encoder, "conv_out"):
            x = self.encoder.conv_out(x)
        return self.embedToAct(x)[:, 0]


class Layer(nn.Module):
    """Pre-LayerNorm attention and a pointwise network, each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x, empty, blocked):
        h = self.norm1(x)
        mixed, weights = self.self_attn(h, h, h, key_padding_mask=empty, attn_mask=blocked)
        x = x + mixed
        return x + self.ff(self.norm2(x)), weights


class Expression(nn.Module):
    """Expression [B] and the promoter's attention [B, K, S] from sequences, features and a mask."""

    def __init__(self, config: ExpressionConfig):
        super().__init__()
        self.seq_encoder = Encoder(config.encoder)
        inputs, width = config.encoder.channels[-1], config.embedding
        plan = [(3, dilation, config.summary_channels) for dilation in config.summary_dilations]
        summary = []
        for kernel, dilation, outputs in [*plan, (1, 1, config.summary_outputs)]:
            summary.append(nn.Conv2d(inputs, outputs, (1, kernel), dilation=(1, dilation)))
            if config.summary_batch_norm:
                summary.append(nn.BatchNorm2d(outputs))
            summary.append(nn.ELU())
            inputs = outputs
        pool = nn.Linear(config.summary_length, width // config.summary_outputs)
        self.conv_out = nn.Sequential(*summary, pool, nn.ELU())
        self.attn_encoder = nn.ModuleList(Layer(width, config.heads) for _ in range(config.layers))
        self.pToExpr = nn.Sequential(
            nn.Linear(width + config.gene_features, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, 1),
        )
        self.add_pos_conv = nn.Sequential(
            nn.Conv1d(width + config.link_features, width, 1),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
            nn.ReLU(),
        )
        self.uses_links = config.link_features > 0

    def forward(self, bases, mask, link_features, gene_features):
        batch, slots = bases.shape[:2]
        x = self.conv_out(self.seq_encoder(bases.permute(0, 3, 1, 2)))
        x = x.permute(0, 2, 1, 3).reshape(batch, slots, -1)
        if self.uses_links:
            joined = torch.cat([x, link_features], dim=-1)
            x = self.add_pos_conv(joined.transpose(1, 2)).transpose(1, 2)
        blocked = ~torch.eye(slots, dtype=torch.bool)
        blocked[0] = blocked[:, 0] = False
        attention = []
        for layer in self.attn_encoder:
            x, weights = layer(x, ~mask, blocked)
            attention.append(weights[:, 0])
        expression = self.pToExpr(torch.cat([x[:, 0], gene_features], dim=-1))[:, 0]
        return expression, torch.stack(attention, dim=1)


def l1kl(prediction, target):
    """(L1 + KL / 2) / 1.5 with the divergence taken over the batch (spec 3.4)."""
    log_p, log_q = (torch.log_softmax(values, dim=0) for values in (prediction, target))
    divergence = nn.functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return (nn.functional.l1_loss(prediction, target) + 0.5 * divergence) / 1.5


LOSSES = {"smooth_l1": nn.SmoothL1Loss(), "mse": nn.MSELoss(), "l1kl": l1kl}


def state_of(module: nn.Module) -> dict:
    """The module's tensors under their published names, as NumPy copies."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def load_state(module: nn.Module, tensors: dict) -> nn.Module:
    """Puts tensors of those names into the module, all of them, and returns it in float64."""
    module.double()
    module.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    return module
