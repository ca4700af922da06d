"""What stops an agent in first person, felt by what it sees: q(s_t | s_{t-1}, a_t, x_{t-1}, x_t), where the law knows no walls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.networks import frames_to_x
from gtmsm_env.perspective import FAR, Camera, carried
from gtmsm_env.types import gaussian_log_prob

FELT = 0.002  # units that a move lacks from which on something has stopped it
LEAST = 0.001  # units: no deviation of what was lost is smaller
SURE = 4.0  # log odds from which on a contact is felt: it learns from as many steps with as without, and what is felt in error adds up


class Contacts(nn.Module):
    """How much of a move was lost against something in its way, told by the frames before and after it.

    Either nothing was in the way and the law is right, or part of the move was lost, by N(lost; m, v) ahead and to the left. A network sees
    the frame after the move, and the one before as it would be seen after the turn alone and after the whole move; where it is
    sure of the second case, m is taken off. A mere turn meets nothing.
    """

    def __init__(self, camera: dict[str, float], size: int, hidden: int = 512) -> None:
        super().__init__()
        self.camera = Camera(size, **camera)
        self.net = nn.Sequential(
            nn.Conv2d(11, 32, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(64 * (size // 8) ** 2 + 3, hidden), nn.SiLU(), nn.Linear(hidden, hidden // 4), nn.SiLU(), nn.Linear(hidden // 4, 4)
        )

    def forward(self, before: Tensor, after: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames x_{t-1}, x_t (B, H, W, C) uint8 and the move u_t (B, 3) that the law expects.

        Returns the logit of something in the way (B,), m (B, 2) and v (B, 1).
        """
        x, now = frames_to_x(before) - 0.5, frames_to_x(after) - 0.5
        turn, turn_seen = self.moved(x, torch.cat([torch.zeros_like(u[:, :2]), u[:, 2:]], dim=1))
        move, move_seen = self.moved(x, u)
        seen = self.net(torch.cat([now, turn, turn_seen, move, move_seen], dim=1))
        told = self.head(torch.cat([seen, 10 * u], dim=1))
        return told[:, 0], told[:, 1:3] / 10, (2 * told[:, 3:] - 8).exp() + LEAST**2

    def moved(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """What x (B, C, H, W) shows after a move u (B, 3) if all but floor and ceiling lies `FAR`: (B, C, H, W), and where (B, 1, H, W)."""
        seen, shown = carried(self.camera, x, u, self.camera.ground.clamp(max=FAR)[:, None])
        return seen * shown[:, None], shown[:, None].float()

    def lost(self, before: Tensor, after: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken off the move u (B, 3), seen from before it, and the variance that adds, (B, 3) each; 0 where nothing is felt."""
        logit, mean, variance = self(before, after, u)
        felt = (logit > SURE)[:, None]
        return F.pad(torch.where(felt, mean, 0.0), (0, 1)), F.pad(torch.where(felt, variance, 0.0).expand_as(mean), (0, 1))

    def loss(self, before: Tensor, after: Tensor, u: Tensor, lost: Tensor) -> Tensor:
        """-log p of what was truly lost (B, 2), nats, the mean over (B,): of whether it was `FELT`, and if so of how much."""
        logit, mean, variance = self(before, after, u)
        felt = (lost.norm(dim=-1) > FELT).float()
        case = F.binary_cross_entropy_with_logits(logit, felt, reduction="none")
        return (case - felt * gaussian_log_prob(lost, mean, variance.expand_as(mean))).mean()
