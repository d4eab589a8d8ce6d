"""What teaches the codec's decoder to sound like a recording: discriminators on complex spectrograms.

Reconstruction losses leave the phase to chance, which is heard as a buzz. A small convolutional network per resolution looks at
real and imaginary parts and says, for every patch, recorded or made (EnCodec, arXiv 2210.13438, section 3.3; hinge losses and
feature matching as in Vocos, arXiv 2306.00814).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

WINDOWS = (1024, 512, 256)
CHANNELS = (2, 8, 16, 16, 16)


class SpectrogramDiscriminator(nn.Module):
    """Patches of one complex spectrogram: higher where it takes them for a recording."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (3, 7), stride=(1, 2), padding=(1, 3)))
            for before, after in pairwise(CHANNELS)
        )
        self.judge = weight_norm(nn.Conv2d(CHANNELS[-1], 1, 3, padding=1))

    def forward(self, waveform: Float[Tensor, "b s"]) -> tuple[Tensor, list[Tensor]]:
        hann = torch.hann_window(self.window, device=waveform.device)
        spectrum = torch.stft(
            waveform, self.window, self.window // 4, window=hann, return_complex=True, normalized=True
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (b, 2, frames, bins)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features


class Adversary(nn.Module):
    """One discriminator for each resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList(SpectrogramDiscriminator(window) for window in WINDOWS)

    def own_loss(self, recorded: Float[Tensor, "b s"], made: Float[Tensor, "b s"]) -> Tensor:
        """Hinge loss of telling the two apart: 2 for guessing, 0 for knowing."""
        terms = [
            F.relu(1 - judge(recorded)[0]).mean() + F.relu(1 + judge(made.detach())[0]).mean() for judge in self.judges
        ]
        return torch.stack(terms).mean()

    def losses_of(self, recorded: Float[Tensor, "b s"], made: Float[Tensor, "b s"]) -> tuple[Tensor, Tensor]:
        """What the decoder pays for being found out, and how far its features are from the recording's."""
        found_out, apart = [], []
        for judge in self.judges:
            verdict, features = judge(made)
            with torch.no_grad():
                wanted = judge(recorded)[1]
            found_out.append(F.relu(1 - verdict).mean())
            apart += [
                (own - target).abs().mean() / target.abs().mean() for own, target in zip(features, wanted, strict=True)
            ]
        return torch.stack(found_out).mean(), torch.stack(apart).mean()
