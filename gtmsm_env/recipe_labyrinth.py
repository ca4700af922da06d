"""How the labyrinth is learned (section 4.2.2): the law of walking from displacements as targets, then what is seen.

The paper's model learns its VAE with N(0, I) in the place of the memory, then its prior while the VAE rests, then both, by the ELBO and by
how likely the true frame is by the one imagined, on ever new walks; that of turning goes on with this VAE, and then learns its prior. Ours
takes that law and VAE as they are and learns to find depths, by how alike views are there, to project and blend views, by the error of the
frame it imagines, and to feel what stops an agent, from displacements. No pose is read but those that the law makes of actions; the camera
is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from tqdm import tqdm

from gtmsm_env import parallel
from gtmsm_env.contacts import FELT
from gtmsm_env.data import Policy, Recordings, Walks, concatenate, record_walks
from gtmsm_env.floorplan import along
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x
from gtmsm_env.perspective import FAR, Camera, carried, covering, relative
from gtmsm_env.projection import ProjectedViews
from gtmsm_env.recipe import IMAGINED, Loss, Stage, Trainer
from gtmsm_env.transitions import FirstPerson
from gtmsm_env.types import gaussian_log_prob, phi, result_of

RULES: dict[str, Any] = {}
CAMERA = {"field_of_view": 90.0, "height": 0.6, "ceiling": 1.5}  # of these worlds
WHIMS = 0.05  # how often the walker does any one of the actions
MORE = 3072  # walks more, for what learns on encodings that rest
FRESH = 64  # new walks that take the place of the oldest at a time in the stage `elbo` ...
ASKED = 1500  # ... after so many questions for each, in the mean: a wide prior would learn a few thousand walks by heart
WALKED, QUESTIONS = 12, 8  # walks of a batch of the stages `prior` and `elbo`, and questions of each
# In which a room might be too, mirrored or not, its channels in some order: each frame is encoded once in each.
ROOMS = [(mirrored, channels) for mirrored in (False, True) for channels in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1))]
HEEDLESS = 2048  # walks of one that runs into things, from which contacts are learned
PLANNED = {"again": 384, "views": 768, "sight": 384, "doubt": 96}  # walks whose floor plans a stage finds once, and then learns on


@dataclass(frozen=True)
class Agent:
    """An experiment: what moves, for how long it remembers in training and evaluation, and how far it then imagines there."""

    world: str
    law: str
    walks: int  # that are learned from
    steps: int  # of each
    tau: int  # remembered
    horizon: int  # imagined as frames
    far: int  # imagined as poses
    spans: tuple[tuple[int, int], ...]  # imagined steps that are told apart, both ends included
    # Of the worlds it is judged in, beside those of the model's world.
    rules: dict[str, Any] = field(default_factory=dict, hash=False)
    width: int = 1024  # of the paper's prior: wide where it learns from ever new walks
    careful: bool = True  # whether it touches nothing, in rooms that it is judged in


WALKING = Agent("GTMSM-Labyrinth-v0", "walking", 1536, 240, 150, 150, 300, ((1, 16), (17, 100), (101, 150), (1, 150)), width=2048)
# Two turns of 38.7 steps; the first six imagined steps show what no remembered frame was taken towards.
ROTATING = Agent("GTMSM-LabyrinthRotate-v0", "rotation", 4608, 78, 33, 45, 45, ((1, 6), (7, 45), (1, 45)))
AGENTS = {"labyrinth": WALKING, "labyrinth-rotate": ROTATING}
# Appendix C: the walking model, which has seen single rooms alone, in several; in rooms that another's textures cover; and
# of an agent that runs into things.
JUDGED_ONLY = {
    "labyrinth-rooms": replace(WALKING, horizon=300, spans=((1, 16), (17, 150), (151, 300), (1, 300)), rules={"rooms": [2, 4]}),
    "labyrinth-lab": replace(WALKING, rules={"textures": "lab"}),
    "labyrinth-contacts": replace(WALKING, careful=False),
}


def stages(size: str, agent: Agent = WALKING) -> list[Stage]:
    """The stages of a full training."""
    if agent is ROTATING:
        turns = Stage("turns", 600, {"law": 3e-3}, 60, falling=True, tau=33)
        if size == "paper":
            vae = Stage("vae", 14000, {"vae": 1e-3}, 100, falling=True)  # that of the walking model, which sees rooms from everywhere
            prior = Stage("prior", 4000, {"prior": 1e-3}, 100, falling=True, tau=33)
            return [turns, vae, prior, Stage("combine", 6000, {"combination": 1e-3}, 100, falling=True, tau=33)]
        views = Stage("views", 4000, {"projection": 2e-3}, 200, falling=True, tau=33)
        return [turns, views, Stage("doubt", 400, {"doubt": 1e-3}, 100, falling=True, tau=33)]
    if size == "paper":
        return [
            Stage("law", 600, {"law": 1e-2, "friction": 0.1}, 12, falling=True, tau=32),
            *[Stage("law", 600, {"law": 3e-3, "friction": 0.2}, 16, falling=True, tau=48)] * 3,  # Adam forgets the large first gradients
            Stage("vae", 31000, {"vae": 2e-3}, 100, falling=True),
            Stage("prior", 4000, {"prior": 1e-3}, 100, falling=True, tau=150),
            Stage("elbo", 40000, {"vae": 1e-3, "prior": 1e-3}, 170, falling=True, tau=150),
        ]
    return [
        Stage("stereo", 1000, {"stereo": 2e-3}, 400, falling=True, tau=150),
        Stage("again", 600, {"again": 2e-3}, 400, falling=True, tau=150),
        Stage("views", 8000, {"projection": 2e-3}, 250, falling=True, tau=150),
        Stage("sight", 2500, {"projection": 1e-3}, 400, falling=True, tau=150),
        Stage("doubt", 400, {"doubt": 1e-3}, 150, falling=True, tau=150),
        Stage("contacts", 12000, {"contacts": 1.5e-3}, 75, falling=True),
    ]


def walks(size: str, agent: Agent) -> int:
    """How many are learned from: more where the VAE, which soon knows all headings of a room by heart, learns from walks that only turn."""
    return 4 * agent.walks if size == "paper" and agent is ROTATING else agent.walks


def beside(stages: Sequence[Stage], batches: int) -> int:
    """How many walks the stages record themselves, with so many times one batch an iteration."""
    recorded = {"combine": MORE, "contacts": HEEDLESS}
    return sum(FRESH * due(stage, batches) if stage.name == "elbo" else recorded.get(stage.name, 0) for stage in stages)


def due(stage: Stage, batches: int, iteration: int | None = None) -> int:
    """How often FRESH walks have taken the place of others by an iteration, the last by default, of so many times one batch each."""
    before = stage.iterations - 1 if iteration is None else iteration
    return before * batches * WALKED * QUESTIONS // (ASKED * FRESH)


def check_images(images: str) -> None:
    """Refuses pictures, which these worlds do not show. Raises ValueError."""
    if images != "procedural":
        raise ValueError(f"Images are what image-navigation and obstacle-grid show; the labyrinth has none: leave out --images {images}.")


def new_model(size: str, seed: int, agent: Agent = WALKING) -> GTMSM:
    """The paper's walking model, which has learned nothing; or another, with what it shares with that one as it ships: its VAE, and law."""
    torch.manual_seed(seed)
    world = {"id": agent.world, "kwargs": RULES, "start": "anywhere"}
    shared: dict[str, Any] = {"state_size": 3, "law": agent.law, "sigma_x": 0.05, "world": world}
    if size == "paper":
        model = GTMSM((32, 32, 3), 8, hidden=agent.width, prior="combined", K=4, learned_metric=True, **shared)
        if agent is WALKING:
            return model
    else:
        model = GTMSM((32, 32, 3), 8, prior="views", K=8, camera=CAMERA, contacts=agent is WALKING, **shared)
    base = GTMSM.load("labyrinth-paper").state_dict()
    taken = ("encoder", "decoder", "transition") if agent is WALKING else ("encoder", "decoder")
    model.load_state_dict({**model.state_dict(), **{name: x for name, x in base.items() if name.startswith(taken)}})
    return model


def carried_over(seed: int, **changes: Any) -> GTMSM:
    """Our walking model as it ships, changed, with a law that has learned nothing."""
    base = GTMSM.load("labyrinth")
    torch.manual_seed(seed)
    model = GTMSM(**{**base.config, **changes})
    own = model.state_dict()
    taken = {name: x for name, x in base.state_dict().items() if name in own and not name.startswith("transition")}
    model.load_state_dict({**own, **taken})
    return model


def policy(world: VectorEnv[Any, Any, Any], generator: Any, whims: float = WHIMS) -> Any:
    """The paper's agent for this world, the scavenger or one that turns; it does all actions now and then."""
    inner: Any = world.unwrapped
    return inner.explorer(generator, whims)


def heedless(world: VectorEnv[Any, Any, Any], generator: Any, whims: float = WHIMS) -> Any:
    """The scavenger when it runs into things."""
    from gtmsm_env.envs.labyrinth_walker import Scavenger

    return Scavenger(world, generator, whims, careful=False)


@dataclass
class LabyrinthTrainer(Trainer):
    """`Trainer` of first-person worlds."""

    frames, half = 128, True
    rough = ("views",)  # the longest
    _plans: Tensor | None = field(default=None, repr=False)
    _states: Tensor | None = field(default=None, repr=False)
    _codes: Encoded | None = field(default=None, repr=False)
    _met: Met | None = field(default=None, repr=False)
    _fresh: Iterator[Walks] | None = field(default=None, repr=False)
    _taken: int = field(default=0, repr=False)  # parts of those, or passed over

    def parts(self) -> dict[str, list[nn.Parameter]]:
        model, transition, projected = self.model, self.model.transition, self.model.projected
        parts: dict[str, list[nn.Parameter]] = {
            "law": [parameter for name, parameter in transition.named_parameters() if name != "beta"],
            "friction": [parameter for name, parameter in transition.named_parameters() if name == "beta"],
            "vae": [*model.encoder.parameters(), *model.decoder.parameters()],
            "prior": [] if model.combined is None else list(model.combined.parameters()),
            "combination": [] if model.combined is None else model.combined.combination(),
        }
        if projected is not None:
            parts["stereo"], parts["again"] = list(projected.stereo.net.parameters()), list(projected.stereo.second.parameters())
            parts["projection"] = [p for part in (projected.sight, projected.weigh, projected.mend) for p in part.parameters()]
            parts["doubt"] = [*projected.doubt.parameters(), projected.log_variance]
        if model.contacts is not None:
            parts["contacts"] = list(model.contacts.parameters())
        return parts

    def losses(self) -> dict[str, Loss]:
        return {
            "law": self.law_loss,
            "turns": self.turns_loss,
            "vae": self.vae_loss,
            "prior": self.elbo_loss,
            "elbo": self.elbo_loss,
            "combine": self.combine_loss,
            "stereo": self.stereo_loss,
            "again": self.stereo_loss,
            "views": self.views_loss,
            "sight": self.sight_loss,
            "doubt": self.doubt_loss,
            "contacts": self.contacts_loss,
        }

    def begin(self) -> None:
        self._plans = self._states = self._codes = self._fresh = None
        if self.stages[self.stage].name == "turns":
            self._find_turns()

    def end(self) -> None:
        self._fresh = None
        self.model.requires_grad_(False)

    def step(self, optimizer: torch.optim.Adam) -> float:
        if self.stages[self.stage].name == "elbo":
            self._refresh()
        return super().step(optimizer)

    # ---------------------------------------------------------------- objectives

    def law_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """lambda ||u_t - u_t^true||^2 of equation 6, lambda being one over each axis' mean square."""
        return 100 * self.displacement_error(stage, rng).square().mean()

    def displacement_error(self, stage: Stage, rng: np.random.Generator) -> Tensor:
        """u_t - u_t^true of some walks, in what is typical of each axis: (64, tau - 1, 3)."""
        rows = self._here(rng.integers(len(self.walks), size=64))
        walks = self.walks.batch(rows, stage.tau)
        assert walks.displacements is not None
        s = self.model.filter(walks.actions)[0]
        return (relative(s[:, 1:], s[:, :-1]) - walks.displacements) / self._typical

    @cached_property
    def _typical(self) -> Tensor:
        """The root mean square of true displacements along each axis, (3,)."""
        assert self.walks.displacements is not None
        return self.walks.displacements.square().mean(dim=(0, 1)).sqrt()

    def turns_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """How unlike frames are to those remembered from nearly their heading, rotated into them: the law by frames alone."""
        rows = self._here(rng.integers(len(self.walks), size=16 * self.scale))
        views, s = self._views(rows, self.walks.index.shape[1]), self.model.filter(self.walks.actions[rows])[0]
        at = self._here(rng.integers(1, s.shape[1], size=(len(rows), 8)))
        row = torch.arange(len(rows), device=at.device)[:, None]
        with torch.no_grad():  # of earlier steps, at most tau, four drawn from the nearest eight
            distance = (phi(s)[row, at][:, :, None] - phi(s)[:, None, : stage.tau]).norm(dim=-1)
            distance = distance.masked_fill(torch.arange(stage.tau, device=at.device) >= at[..., None], torch.inf)
            near = distance.topk(min(8, stage.tau), largest=False).indices[..., self._here(rng.permutation(8)[:4])]
            known = distance.take_along_dim(near, -1) < 1
        seen = carried(self.camera, views[row[..., None], near], relative(s[row, at][:, :, None], s[row[..., None], near]), FAR)
        unlike = (seen[0] - views[row, at][:, :, None]).square().mean(dim=-3)
        shown = seen[1] * known[..., None, None]
        return 1000 * (unlike * shown).sum() / shown.sum().clamp(min=1)

    def elbo_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The negative ELBO of frames, where any tau steps of their walk are remembered, and -log p of a frame by the one imagined for it.

        Of what is remembered only the frames that are recalled are encoded: the others do not enter.
        """
        model, combined = self.model, self.model.combined
        assert combined is not None
        rows = self._here(rng.integers(len(self.walks), size=WALKED * self.scale))
        window, at = self._any_window(stage, rng, len(rows), QUESTIONS)
        redrawn, signs = self._another_room(rng)
        states = self._inferred()[rows] * signs
        s, keys = (states.take_along_dim(which[..., None], dim=1) for which in (at, window))
        found = SpatialMemory(keys, keys, {"step": window}).read(s, combined.K, combined.metric)
        frame = self.walks.index[rows].gather(1, torch.cat([at, found.values["step"].flatten(1)], dim=1))  # those seen, then those recalled
        distinct, which = (rows[:, None] * self.walks.frames.shape[1] + frame).unique(return_inverse=True)
        x = frames_to_x(redrawn(self.walks.frames.flatten(0, 1)[distinct]))
        with self.halved():
            mean, variance = (q.float()[which] for q in model.encoder(x))
        recalled = replace(found, values={"z_mean": mean[:, QUESTIONS:].unflatten(1, found.index.shape[1:])})
        mean, variance, x = mean[:, :QUESTIONS], variance[:, :QUESTIONS], x[which[:, :QUESTIONS]]
        z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
        with self.halved():
            expected = combined(recalled, s)
            shown, imagined = model.decoder(torch.stack([z, expected.mean[..., 0, :]])).float()
        kl = gaussian_log_prob(z, mean, variance) - expected.log_prob(z)
        noise = x.new_tensor(model.sigma_x**2)
        log_p = sum(gaussian_log_prob(x.flatten(2), mean.flatten(2), noise) for mean in (shown, imagined))
        return (kl - log_p).mean()

    def combine_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """How far imagined frames are from the true ones, and a tenth of -log p of their encodings, of which the variance learns alone.

        The VAE rests, so that many questions cost little; and any tau steps of a walk are remembered, any others are asked for.
        """
        model, combined, (walks, states, codes) = self.model, self.model.combined, self._resting()
        assert combined is not None
        rows = self._here(rng.integers(len(walks), size=384 * self.scale))
        window, at = self._any_window(stage, rng, len(rows), 1)
        at, room = at[:, 0], int(rng.integers(len(ROOMS)))
        redrawn, signs = self._room(*ROOMS[room])
        s, keys = states[rows, at] * signs, states[rows[:, None], window] * signs
        found = SpatialMemory(keys, keys, {"step": window}).read(s[:, None], combined.K, combined.metric)
        frame, recalled = walks.index[rows, at], walks.index[rows[:, None], found.values["step"][:, 0]]
        with self.halved():
            expected = combined(replace(found, values={"z_mean": codes[room, rows[:, None], recalled].float()[:, None]}), s[:, None])
            mean, variance = expected.mean[:, 0, 0], expected.variance[:, 0, 0]
            imagined = model.decoder(mean).float()
        wrong = (imagined - frames_to_x(redrawn(walks.frames[rows, frame]))).square().flatten(1).sum(dim=-1) / (2 * IMAGINED**2)
        return (wrong - 0.1 * gaussian_log_prob(codes[room, rows, frame].float(), mean.detach(), variance)).mean()

    def stereo_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """How unlike half of an entry's sources are at the depths that the other half tell: those must be right elsewhere too."""
        projected = self._projected()
        rows = self._here(rng.integers(min(PLANNED.get(stage.name, len(self.walks)), len(self.walks)), size=4 * self.scale))
        views, s = self._views(rows, stage.tau), self._inferred()[rows, : stage.tau]
        entries = self._here(rng.integers(stage.tau, size=(len(rows), 8)))
        sources = projected.sources_of(s, torch.ones_like(s[..., 0], dtype=torch.bool), entries, 2 * projected.sources)
        row = torch.arange(len(rows), device=rows.device)[:, None]
        view, pose = (x[row, entries].flatten(0, 1) for x in (views, s))
        seen, judged = (
            (views[row[..., None], x].flatten(0, 1), s[row[..., None], x].flatten(0, 1)) for x in (sources[..., ::2], sources[..., 1::2])
        )
        features = projected.stereo.compare(view, pose, *seen)
        if stage.name == "stereo":
            log_p = projected.stereo(features)
        else:
            told = along(projected.camera, self._planned(stage)[rows].float(), pose.unflatten(0, entries.shape), projected.stereo.D)
            log_p = projected.stereo.again(features, told.flatten(0, 1))
        with torch.no_grad():
            unlike = projected.stereo.unlike(view, pose, *judged)
        return 1000 * (log_p.exp() * unlike).sum(dim=-1).mean()

    def views_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """How far imagined frames are from the true ones, mended or not, on floor plans that rest: in nats of the likelihood a frame."""
        x, s, memory = self._asked(stage, rng)
        return self._wrong(x, *self._projected()(s, memory))

    def _wrong(self, x: Tensor, canvas: Tensor, laid: Tensor) -> Tensor:
        wrong = (canvas - x).square().sum(dim=(-1, -2, -3)).mean()
        blended = (laid[..., : x.shape[-3], :, :] + 0.5 - x).square().sum(dim=(-1, -2, -3)).mean()
        return (wrong + 0.3 * blended) / (2 * self.model.sigma_x**2)

    def sight_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """As `views_loss`, and how unlike remembered views are to the true frame at the depths that sight tells of it.

        What is imagined depends on the depths around the most probable alone; this weighs them all.
        """
        projected = self._projected()
        x, s, memory = self._asked(stage, rng)
        sources = covering(projected.camera, memory.s_mean, memory.used[:, None], s, projected.sources, memory.values["depth"])
        row = torch.arange(len(s), device=s.device)[:, None, None]
        found = (x, s, memory.values["view"][row, sources], memory.s_mean[row, sources])
        with torch.no_grad():
            unlike = projected.stereo.unlike(*(part.flatten(0, 1) for part in found))
        p = projected.sight(memory.facts["plan"], s).flatten(0, 1).exp()
        return self._wrong(x, *projected(s, memory)) + 10_000 * (p * unlike).sum(dim=-1).mean()

    def doubt_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """-log p(z | s, M) of the true frames' encodings: only its variance learns."""
        with torch.no_grad():
            x, s, memory = self._asked(stage, rng)
            canvas, laid = self._projected()(s, memory)
            z, variance = self.model.encoder(x)
            z = z + variance.sqrt() * torch.empty_like(z).normal_(generator=generator)
            expected = self.model.encoder(canvas)[0]
        return -gaussian_log_prob(z, expected, self._projected().variance(laid)).mean()

    def contacts_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """-log p of what steps of a heedless walker lost, of which half met something: displacements as targets."""
        contacts, met = self.model.contacts, self._meeting()
        assert contacts is not None
        drawn = [kind[self._here(rng.integers(len(kind), size=96 * self.scale))] for kind in met.steps]
        row, step = torch.cat(drawn).unbind(dim=1)
        redrawn, signs = self._another_room(rng)
        before, after = (redrawn(met.walks.frames[row, met.walks.index[row, at]]) for at in (step, step + 1))
        return 100 * contacts.loss(before, after, signs * met.u[row, step], signs[:2] * met.lost[row, step])

    # ---------------------------------------------------------------- what they read

    @property
    def camera(self) -> Camera:
        return Camera(self.model.frame_shape[1], **CAMERA).to(self.walks.frames.device)

    def _crops(self, rng: np.random.Generator, count: int) -> Tensor:
        return self._another_room(rng)[0](super()._crops(rng, count))

    def _another_room(self, rng: np.random.Generator) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """How frames and states become those of a room that might be too, mirrored or not, its channels in any order."""
        channels = rng.permutation(3)
        return self._room(rng.random() < 0.5, tuple(channels))

    def _room(self, mirrored: bool, channels: Sequence[int]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What frames (*B, H, W, C) are given to, and what states are multiplied by, to be those of this room."""
        order = torch.tensor(channels, device=self.walks.frames.device)
        signs = torch.tensor([1.0, -1.0, -1.0] if mirrored else [1.0, 1.0, 1.0], device=order.device)
        return lambda frames: (frames.flip(-2) if mirrored else frames)[..., order], signs

    def _any_window(self, stage: Stage, rng: np.random.Generator, walks: int, questions: int) -> tuple[Tensor, Tensor]:
        """Of some walks tau steps in a row that are remembered, (walks, tau), and other steps that are asked for, (walks, questions)."""
        steps, tau = self.walks.index.shape[1], stage.tau
        first = self._here(rng.integers(steps - tau + 1, size=(walks, 1)))
        at = self._here(rng.integers(steps - tau, size=(walks, questions)))
        return first + torch.arange(tau, device=first.device), at + tau * (at >= first)

    @torch.no_grad()
    def _find_turns(self) -> None:
        """Start every action with the turn by which frames before it look most as those after it, none if no walk did it, and no move."""
        rows = torch.arange(min(64, len(self.walks)))
        views, actions = self._views(rows, self.walks.index.shape[1]), self.walks.actions[rows]
        turns = torch.linspace(-0.5, 0.5, 101, device=views.device)
        self.model.transition.W_a.zero_()
        for action in actions.unique().tolist():
            row, step = (actions == action).nonzero()[:64].unbind(dim=1)
            pose = torch.stack([0 * turns, 0 * turns, turns], dim=-1)  # after the action, seen from before it
            seen, shown = carried(self.camera, views[row, step][:, None].expand(-1, 101, -1, -1, -1), pose.expand(len(row), -1, -1), FAR)
            unlike = (seen - views[row, step + 1][:, None]).square().mean(dim=-3)
            wrong = (unlike * shown).sum(dim=(0, -1, -2)) / shown.sum(dim=(0, -1, -2))
            self.model.transition.W_a[2, action] = turns[wrong.argmin()]

    def _here(self, drawn: np.ndarray) -> Tensor:
        """What was drawn, on the device of the walks."""
        return torch.from_numpy(drawn).to(self.walks.frames.device)

    def _projected(self) -> ProjectedViews:
        assert self.model.projected is not None
        return self.model.projected

    def _views(self, rows: Tensor, steps: int) -> Tensor:
        """Frames (R, steps, C, H, W) of some walks."""
        walks = self.walks.batch(rows, steps)
        return frames_to_x(torch.take_along_dim(walks.frames, walks.index[..., None, None, None], dim=1))

    @torch.no_grad()
    def _inferred(self) -> Tensor:
        """States that the law makes of the actions, (W, T, 3)."""
        if self._states is None:
            self._states = self.model.filter(self.walks.actions)[0]
        return self._states

    @torch.no_grad()
    def _planned(self, stage: Stage) -> Tensor:
        """Floor plans of the first walks, (PLANNED[stage], 2, CELLS, CELLS) of half precision; for the stage `again` by first answers."""
        if self._plans is None:
            projected, plans = self._projected(), []
            count = min(PLANNED[stage.name], len(self.walks))
            for row in tqdm(range(count), desc="floor plans", leave=False, disable=parallel.rank() > 0):
                rows = torch.tensor([row])
                views, s = self._views(rows, stage.tau), self._inferred()[rows, : stage.tau]
                used = torch.ones_like(s[..., 0], dtype=torch.bool)
                first, whole = projected.planning_first(views, s, used), projected.planning(views, s, used)
                plans.append((result_of(first)[0] if stage.name == "again" else result_of(whole)).half())
            self._plans = torch.cat(plans)
        return self._plans

    @torch.no_grad()
    def _resting(self) -> Encoded:
        if self._codes is None:
            walks = concatenate([self.walks, self._recorded(MORE, self.seed + 101, policy)])
            codes = []
            for room in tqdm(ROOMS, desc="encodings", leave=False, disable=parallel.rank() > 0):
                redrawn, _ = self._room(*room)
                with self.halved():
                    parts = [self.model.encoder(frames_to_x(redrawn(x)))[0].half() for x in walks.frames.flatten(0, 1).split(2048)]
                codes.append(torch.cat(parts).unflatten(0, walks.frames.shape[:2]))
            self._codes = Encoded(walks, self.model.filter(walks.actions)[0], torch.stack(codes))
        return self._codes

    @torch.no_grad()
    def _meeting(self) -> Met:
        if self._met is None:
            assert isinstance(self.model.transition, FirstPerson)
            self._met = met_by(self.model.transition, self._heedless())
        return self._met

    def _heedless(self) -> Walks:
        """Walks on which things are in the way."""
        return self._recorded(HEEDLESS, self.seed, heedless)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Replace the oldest walks by as many fresh ones as are due by this iteration; a resumed training comes to the same."""
        stage, batches, rows = self.stages[self.stage], self.batches * self.scale, min(FRESH, len(self.walks))
        held, now = len(self.walks) // rows, due(stage, batches, self.iteration)
        if self._fresh is None:
            own, steps = self.walks, self.walks.index.shape[1]
            frames = F.pad(own.frames, (0, 0) * 3 + (0, steps - own.frames.shape[1]))  # a copy
            self.walks = Walks(frames, own.index.clone(), own.actions.clone())
            self._states, self._taken = None, max(0, now - held)
            recordings = Recordings(*self._train_world(), rows, steps, self.seed, policy)
            self._fresh = recordings.parts(self._taken, due(stage, batches), parallel.here())
        missed = range(self._taken, now)
        for part in tqdm(missed, desc="fresh walks", leave=False, disable=parallel.rank() > 0 or len(missed) < 2):
            walks, place = next(self._fresh), slice(part % held * rows, (part % held + 1) * rows)
            self.walks.frames[place, : walks.frames.shape[1]] = walks.frames.to(self.walks.frames.device)
            self.walks.index[place], self.walks.actions[place] = walks.index, walks.actions
            self._inferred()[place] = self.model.filter(self.walks.actions[place])[0]
        self._taken = now

    def _train_world(self) -> tuple[str, dict[str, Any]]:
        """The model's world, in its train rooms: its id, and the arguments it is made with."""
        world = self.model.world
        assert world is not None
        return world["id"], {**world["kwargs"], "split": "train", "task": None}

    def _recorded(self, count: int, seed: int, walker: Policy) -> Walks:
        """So many walks more, in train rooms of the model's world, with displacements."""
        steps = self.walks.index.shape[1]
        parts = record_walks(*self._train_world(), count, steps, seed, displacements=True, policy=walker)
        return concatenate(list(parts)).to(self.walks.frames.device)

    def _asked(self, stage: Stage, rng: np.random.Generator, queries: int = 12) -> tuple[Tensor, Tensor, SpatialMemory]:
        """Frames (R, Q, C, H, W) after the steps remembered, the states there, and the memory that is asked for them."""
        projected = self._projected()
        plans = self._planned(stage)
        rows = self._here(rng.integers(len(plans), size=2 * self.scale))
        at = self._here(np.stack([rng.choice(np.arange(stage.tau, self.walks.index.shape[1]), queries, replace=False) for _ in rows]))
        views, s = self._views(rows, self.walks.index.shape[1]), self._inferred()[rows]
        plan = plans[rows].float() * float(2 ** rng.uniform(-1, 1))  # as much evidence as of shorter and longer walks
        poses, s = s[:, : stage.tau], s.take_along_dim(at[..., None], dim=1)
        with torch.no_grad():
            depth = projected.sight.depth(plan, poses)
        memory = SpatialMemory(poses, poses, {"view": views[:, : stage.tau], "depth": depth}, facts={"plan": plan})
        return views[torch.arange(len(rows), device=at.device)[:, None], at], s, memory


class Encoded(NamedTuple):
    """Walks whose encodings rest."""

    walks: Walks
    states: Tensor  # (W, T, 3) that the law makes of the actions
    codes: Tensor  # (ROOMS, W, F, d) of their distinct frames


class Met(NamedTuple):
    """Walks among things in the way, and what they did to each step."""

    walks: Walks
    u: Tensor  # (W, T-1, 3) what the law expects, what was lost before being known
    lost: Tensor  # (W, T-1, 2) how much more that is than what was moved
    steps: tuple[Tensor, Tensor]  # (N, 2) walks and steps that lost something, and those that did not


def met_by(law: FirstPerson, walks: Walks) -> Met:
    """What agents of a law met on walks with displacements.

    The momentum before each step is as if all before had been felt truly, as far as mean displacements tell it: under `HardWalking`, whose
    momentum is a last velocity, some is wrong after a touch, and then lost though nothing was touched.
    """
    assert walks.displacements is not None
    momentum, u = torch.zeros_like(walks.displacements[:, 0]), []
    for action, true in zip(walks.actions.unbind(dim=1), walks.displacements.unbind(dim=1), strict=True):
        expected, momentum = law.step(momentum, action)
        momentum = momentum - F.pad((expected - true)[:, :2], (0, 1))
        u.append(expected)
    expected = torch.stack(u, dim=1)
    lost = (expected - walks.displacements)[..., :2]
    felt = lost.norm(dim=-1) > FELT
    return Met(walks, expected, lost, (felt.nonzero(), (~felt).nonzero()))
