"""How image navigation is learned: in stages, each of some of the parameters, by the terms of the ELBO (section 3.4) that they enter.

The paper's size ends on the ELBO as it stands. Ours learns its VAE with N(0, I) in the place of the memory, then the views prior by
its own term and by the error of the frame it imagines. Recall is soft at first: more neighbours and a larger delta than the model has.

Where is learned before what is seen well, and moves before walls. Nothing but frames and actions is read. Every draw is a function
of (seed, stage, iteration, batch), so that a resumed run ends at the same weights as an uninterrupted one, and so do several processes
that share an iteration's batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env import parallel
from gtmsm_env.data import Walks
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import Decoder, Encoder, frames_to_x, set_principal_components
from gtmsm_env.obstacles import Known, axes_of
from gtmsm_env.priors import mixture_prior
from gtmsm_env.transitions import LinearWithWalls
from gtmsm_env.types import WITHIN, gaussian_log_prob

WORLD, RULES = "GTMSM-ImageNavigation-v0", {"image_size": 32, "crop_size": 8, "step_size": 3}
WALKS, STEPS = 16384, 512  # what is learned from
BATCH = 32  # walks
RECALLED = 4096  # walks from which moves and walls are learned: enough, and their encodings fit into memory
DISPLACED = 0.1  # places; deviation at which an inferred displacement is compared with the true one, where a training is given it
IMAGINED = 0.1  # deviation at which the views prior's imagined frame is compared with the true one while it learns


@dataclass(frozen=True)
class Stage:
    """A number of iterations on one objective. `rates` are Adam's learning rates by the parts they teach; other parts rest."""

    name: str
    iterations: int
    rates: dict[str, float]
    cost: float  # CPU milliseconds an iteration, roughly: progress is counted in them
    falling: bool = False  # the rates fall to zero along a cosine
    tau: int = 0  # steps remembered
    ahead: int = 0  # steps predicted
    walls: bool = True  # without: blocked moves are taken as moves of no length
    K: int = 0  # neighbours, 0 for all: a soft recall first, since the few nearest are copies of one frame and carry no gradient
    delta: float = 1e-4


def stages(size: str) -> list[Stage]:
    """The stages of a full training."""
    moves, both = {"moves": 1e-2}, {"moves": 3e-4, "walls": 2e-3}  # gentle once both are found: faster, seed 4 lost its walls again
    first = [
        Stage("moves", 400, moves, 40, tau=32, ahead=32, walls=False, delta=1.0),
        Stage("moves", 300, moves, 60, tau=64, ahead=32, walls=False, delta=0.1, falling=True),
        Stage("walls", 800, {"walls": 1e-2}, 60, tau=32, ahead=32, delta=1.0, falling=True),
        Stage("walls", 200, both, 80, tau=128, ahead=32, K=64, delta=0.1, falling=True),
        Stage("walls", 300, both, 120, tau=256, ahead=32, K=16, delta=1e-2, falling=True),
    ]
    if size == "paper":
        vae = Stage("vae", 8000, {"vae": 1e-3}, 20, falling=True)
        return [*first, vae, Stage("elbo", 1000, {"vae": 3e-4}, 200, falling=True, tau=256, ahead=32, K=5, delta=1e-4)]
    heads = Stage("vae", 12000, {"heads": 3e-4}, 20, falling=True)  # principal components suit pictures of any kind, and rest
    return [*first, heads, Stage("views", 600, {"geometry": 3e-2, "views": 1e-3}, 210, falling=True)]


SIZES: dict[str, dict[str, Any]] = {
    "default": {"z_size": 64, "hidden": 256, "prior": "views"},
    "paper": {"z_size": 16, "hidden": 256, "prior": "mixture"},
}


def new_model(size: str, seed: int) -> GTMSM:
    """A model that has learned nothing; its initial weights are a function of the seed."""
    torch.manual_seed(seed)
    return GTMSM((8, 8, 3), 5, world={"id": WORLD, "kwargs": RULES, "start": "center"}, **SIZES[size])


Loss = Callable[[Stage, np.random.Generator, torch.Generator], Tensor]


@dataclass
class Trainer:
    """A model, its data and where in the recipe it stands."""

    model: GTMSM
    walks: Walks
    stages: list[Stage]
    seed: int
    stage: int = 0
    iteration: int = 0
    batches: int = 1  # an iteration, shared among processes
    scale: int = 1  # how many times as much each holds as suits a CPU
    frames: ClassVar[int] = 512  # that the VAE sees in a batch
    half: ClassVar[bool] = False  # whether the VAE and the combined prior compute in half precision while they learn
    rough: ClassVar[tuple[str, ...]] = ()  # stages that a GPU computes in bfloat16: where it leaves the gradient as it is
    _encodings: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _to_places: Tensor | None = field(default=None, repr=False)
    _cells: tuple[Tensor, Tensor, Tensor, Tensor] | None = field(default=None, repr=False)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a stage's rates are for."""
        model, views = self.model, self.model.views
        network = [] if views is None else [*views.mlp.parameters(), views.log_variance]
        geometry = [] if views is None else [p for p in views.parameters() if not any(p is q for q in network)]
        return {
            "moves": [model.transition.W_a],
            "walls": list(self._walls().g.parameters()),
            "vae": [*model.encoder.parameters(), *model.decoder.parameters()],
            "heads": self._heads(),
            "geometry": geometry,
            "views": network,
            "landmarks": [] if model.landmarks is None else list(model.landmarks.parameters()),
            "obstacles": [] if model.obstacles is None else list(model.obstacles.parameters()),
        }

    def _heads(self) -> list[nn.Parameter]:
        """Of the VAE all but its linear paths, which are principal components and rest."""
        vae = [*self.model.encoder.named_parameters(), *self.model.decoder.named_parameters()]
        return [parameter for name, parameter in vae if not name.startswith("linear")]

    def optimizer(self) -> torch.optim.Adam:
        """Adam over the parts of this stage; all others need no gradient."""
        stage = self.stages[self.stage]
        self.model.requires_grad_(False)
        groups = [{"params": self.parts()[part], "lr": rate, "rate": rate} for part, rate in stage.rates.items()]
        for group in groups:
            for parameter in group["params"]:  # type: ignore[attr-defined]
                parameter.requires_grad_(True)
        return torch.optim.Adam(groups, fused=self.walks.frames.is_cuda)  # one launch, not one a weight

    def begin(self) -> None:
        """What a stage needs before its first iteration."""
        self.model.transition.walls = self.stages[self.stage].walls
        self._encodings = self._cells = None
        if self.stage == 0 and "moves" in self.stages[0].rates:  # a model that has learned nothing
            x = frames_to_x(self._crops(np.random.default_rng([self.seed, 0]), 50_000))
            encoder, decoder = self.model.encoder, self.model.decoder
            assert isinstance(encoder, Encoder)
            assert isinstance(decoder, Decoder)
            set_principal_components(encoder, decoder, x, self.model.sigma_x)
        elif self.stages[self.stage].walls and not self.stages[self.stage - 1].walls:
            self._scale_walls()

    def end(self) -> None:
        """Leave the model as it is used."""
        self.model.transition.walls = True
        self.model.requires_grad_(False)

    def step(self, optimizer: torch.optim.Adam) -> float:
        """One iteration of the current stage: its loss, in nats, the mean over its batches."""
        stage = self.stages[self.stage]
        if stage.falling:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * self.iteration / stage.iterations))
        optimizer.zero_grad()
        device = self.walks.frames.device
        total = torch.zeros((), device=device)
        for batch in range(parallel.rank(), self.batches, parallel.count()):
            rng = np.random.default_rng([self.seed, self.stage, self.iteration, batch])
            generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and stage.name in self.rough):
                loss = self.losses()[stage.name](stage, rng, generator) / self.batches
            (loss / 100).backward()  # a scale at which clipping by 10 seldom acts
            total += loss.detach()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parallel.add([total, *gradients])
        nats = float(total)
        if not math.isfinite(nats):
            raise FloatingPointError(f"The loss of stage {self.stage + 1} ({stage.name}) became {nats}. Train with another --seed.")
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 10, error_if_nonfinite=True)
        optimizer.step()
        self.iteration += 1
        return nats

    def halved(self) -> torch.autocast:
        """Inside, networks compute in half precision, where this recipe does so: twice as fast."""
        return torch.autocast(self.walks.frames.device.type, torch.bfloat16, enabled=self.half)

    # ---------------------------------------------------------------- objectives

    def losses(self) -> dict[str, Loss]:
        """The objective of each stage, by its name."""
        return {
            "moves": self.recall_loss,
            "walls": self.recall_loss,
            "vae": self.vae_loss,
            "views": self.views_loss,
            "elbo": self.elbo_loss,
            "landmarks": self.recall_loss,
            "displacements": self.displacement_loss,
            "obstacles": self.obstacles_loss,
        }

    def recall_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The KL of the ELBO, the one term that the transition enters. Encodings are computed once: the VAE rests."""
        rows = self._encoded_rows(rng)
        walks = self.walks.batch(rows, stage.tau + stage.ahead)
        q_mean, q_variance = (torch.take_along_dim(q[rows], walks.index[..., None], dim=1) for q in self._encoded())
        lengths = None if stage.walls else (~walks.unmoved()).float()
        K = stage.K or stage.tau
        kl, _ = self.model.divergence(
            q_mean, q_variance, walks.actions, stage.tau, lambda s, M: mixture_prior(M.read(s, K), stage.delta), generator, lengths
        )
        return kl.mean()

    def vae_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The negative ELBO of single frames, with N(0, I) in the place of what the memory expects."""
        x = frames_to_x(self._crops(rng, self.frames * self.scale))
        with self.halved():
            mean, variance = (q.float() for q in self.model.encoder(x))
            z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
            shown = self.model.decoder(z).float()
        log_likelihood = gaussian_log_prob(x.flatten(1), shown.flatten(1), x.new_tensor(self.model.sigma_x**2))
        kl = 0.5 * (mean.square() + variance - variance.log() - 1).sum(dim=-1)
        return (kl - log_likelihood).mean()

    def elbo_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The negative ELBO as it stands in section 3.4, with the mixture prior."""
        rows = torch.from_numpy(rng.integers(len(self.walks), size=BATCH * self.scale)).to(self.walks.frames.device)
        walks = self.walks.batch(rows, stage.tau + stage.ahead)
        elbo = self.model(
            walks.frames, walks.index, walks.actions, stage.tau, lambda s, M: mixture_prior(M.read(s, stage.K), stage.delta), generator
        )
        loss: Tensor = elbo.kl - elbo.log_likelihood
        return loss

    def views_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """-log p(z | s, M) of frames seen after tau random steps, and how far the imagined frame is from the true one.

        Most queries are at places that the memory lacks, by the model's own novelty.
        """
        model, views = self.model, self.model.views
        assert views is not None
        device = self.walks.frames.device
        rows = torch.from_numpy(rng.integers(len(self.walks), size=BATCH * self.scale)).to(device)
        steps, queries = self.walks.index.shape[1], BATCH // 2
        tau = int(rng.integers(steps // 8, steps // 2 + 1))
        walks = self.walks.batch(rows, min(steps, tau + steps // 2))
        with torch.no_grad():
            s, s_variance, _ = model.filter(walks.actions)
            q_mean, q_variance = (torch.take_along_dim(q, walks.index[..., None], dim=1) for q in model.encode(walks.frames))
            memory = SpatialMemory(s[:, :tau], s_variance[:, :tau], {"z_mean": q_mean[:, :tau], "z_variance": q_variance[:, :tau]})
            places = memory.distinct(WITHIN * model.step_length, at_least=model.K)
            new = model.novelty(s[:, tau:], places) > WITHIN  # (B, ahead)
            weight = torch.where(new, 0.6 / (new.float().mean() + 1e-3), 0.4 / ((~new).float().mean() + 1e-3))
            at = tau + torch.multinomial(weight, queries, generator=generator)  # (B, Q)
            s, s_variance, mean, variance = (torch.take_along_dim(q, at[..., None], dim=1) for q in (s, s_variance, q_mean, q_variance))
            s = s + s_variance.sqrt() * torch.empty_like(s).normal_(generator=generator)
            x = frames_to_x(walks.frames[torch.arange(len(rows), device=device)[:, None], walks.index.gather(1, at)])
            z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
            shown = model.decoder(places.values["z_mean"])
        canvas = views.canvas(shown, places.s_mean, places.count)
        mixture, imagined = views(places.read(s, model.K), canvas, s, model.encoder, model.delta)
        return -mixture.log_prob(z).mean() + (x - imagined).square().flatten(2).sum(dim=-1).mean() / (2 * IMAGINED**2)

    def displacement_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """-log N(true displacement; the inferred one, a tenth of a step) but for its constant: the term of section 4.2.2 a step."""
        rows = self._encoded_rows(rng)
        walks = self.walks.batch(rows, stage.tau)
        assert walks.displacements is not None
        z_mean = torch.take_along_dim(self._encoded()[0][rows], walks.index[..., None], dim=1)
        u = self.model.infer_walk(z_mean, walks.actions)[2][:, 1:]
        wrong = (u @ self._displacement_of_state() - walks.displacements) / DISPLACED
        return 0.5 * wrong.square().sum(dim=-1).mean()

    def obstacles_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """-log p of what walks come to know of cells that they knew nothing of tau steps after their start: 100 times its mean."""
        obstacles = self.model.obstacles
        assert obstacles is not None
        cells, targets, stops, inside = self._felt()
        rows = torch.from_numpy(rng.integers(len(cells), size=4 * BATCH * self.scale)).to(cells.device)
        steps = cells.shape[1]
        step = torch.arange(steps, device=cells.device)

        def known(until: Tensor) -> Known:
            seen = obstacles.marked(cells[rows], step < until)
            return Known(seen, obstacles.marked(targets[rows], stops[rows] & (step[1:] < until)) & ~seen, inside)

        now = known(torch.from_numpy(rng.integers(stage.tau, steps, size=(len(rows), 1))).to(cells.device))
        later = known(torch.full((len(rows), 1), steps, device=cells.device))
        new = (later.seen | later.touched) & ~(now.seen | now.touched)
        return 100 * F.binary_cross_entropy_with_logits(obstacles(now)[new], later.touched[new].float())

    # ---------------------------------------------------------------- what they read

    @torch.no_grad()
    def _felt(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where walks went and what stopped them, as frames that did not change tell: cells of states (W, T), cells that moves would have
        led to, and whether something inside the edges stopped them (W, T-1), and the cells within the edges (S, S).
        """
        if self._cells is None:
            transition, obstacles = self._walls(), self.model.obstacles
            assert obstacles is not None
            axes, unmoved, moves = axes_of(transition.W_a), self.walks.unmoved(), transition.W_a.t()[self.walks.actions]
            s = F.pad((moves * ~unmoved[..., None]).cumsum(dim=1), (0, 0, 1, 0))  # (W, T, n)
            targets = s[:, :-1] + moves
            stops = unmoved & (transition.gate(targets).squeeze(-1) > 0.5)
            self._cells = obstacles.cells(s, axes), obstacles.cells(targets, axes), stops, obstacles.inside(transition)
        return self._cells

    def _displacement_of_state(self) -> Tensor:
        """The linear map (n, 2) from displacements of the state to true ones, by what each action does to both where it moves."""
        if self._to_places is None:
            true, actions = self.walks.displacements, self.walks.actions
            assert true is not None
            moved = true.any(dim=-1)
            does = [true[moved & (actions == a)].float().mean(dim=0).nan_to_num() for a in range(self.model.num_actions)]  # 0 for a stay
            self._to_places = torch.linalg.lstsq(self.model.transition.W_a.t(), torch.stack(does)).solution
        return self._to_places

    def _encoded(self) -> tuple[Tensor, Tensor]:
        """q(z | x) of every distinct frame of these walks, (W, F, d) each."""
        if self._encodings is None:
            with torch.no_grad():
                parts = [self.model.encode(frames) for frames in self.walks.frames[:RECALLED].split(16)]
            self._encodings = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        return self._encodings

    def _encoded_rows(self, rng: np.random.Generator) -> Tensor:
        """A batch of the walks whose encodings are kept."""
        return torch.from_numpy(rng.integers(min(len(self.walks), RECALLED), size=BATCH * self.scale)).to(self.walks.frames.device)

    def _crops(self, rng: np.random.Generator, count: int) -> Tensor:
        """Frames that walks have seen, (count, H, W, C) uint8: a walk, then a step of it."""
        rows, steps = rng.integers(len(self.walks), size=count), rng.integers(self.walks.index.shape[1], size=count)
        return self.walks.frames[rows, self.walks.index[rows, steps]]

    def _walls(self) -> LinearWithWalls:
        assert isinstance(self.model.transition, LinearWithWalls)
        return self.model.transition

    def _scale_walls(self) -> None:
        """Set the scale of g's input to the spread of states on walks whose blocked moves have no length."""
        walks = self.walks.batch(torch.arange(min(256, len(self.walks))), 64)
        self.model.transition.walls = False
        with torch.no_grad():
            s, _, _ = self.model.filter(walks.actions, (~walks.unmoved()).float())
            self._walls().wall_scale.copy_(s.flatten(0, 1).std(dim=0))
        self.model.transition.walls = True
