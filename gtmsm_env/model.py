"""GTM-SM: a state-space model says where, a VAE says what, a spatial memory binds the two. Equations as numbered in the paper."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env import projection
from gtmsm_env.checkpoint import CheckpointError, check_keys, load_checkpoint, save_checkpoint
from gtmsm_env.contacts import Contacts
from gtmsm_env.floorplan import standing
from gtmsm_env.landmarks import Inferred, Landmarks
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.neighbours import nearest_before
from gtmsm_env.networks import ConvDecoder, ConvEncoder, Decoder, Encoder, Network, frames_to_x, looked_up, x_to_frames
from gtmsm_env.obstacles import KEPT, Obstacles, axes_of, count_moves, effect, without_moves
from gtmsm_env.perspective import AT_ONCE, relative
from gtmsm_env.priors import CombinedPrior, ViewsPrior, mixture_prior
from gtmsm_env.projection import ProjectedViews
from gtmsm_env.transitions import FirstPerson, HardWalking, LinearWithWalls, Rotation, Walking, turned
from gtmsm_env.types import (
    WITHIN,
    Belief,
    GaussianMixture,
    Neighbours,
    Walk,
    check_rewards,
    distinct_frames,
    gaussian_log_prob,
    in_steps,
    result_of,
)

Prior = Callable[[Tensor, SpatialMemory], GaussianMixture]
Stops = Callable[..., Tensor]
LAWS = {"walls": LinearWithWalls, "rotation": Rotation, "walking": Walking, "hard walking": HardWalking}
PRETRAINED = Path(__file__).parent / "pretrained"


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(file.stem for file in PRETRAINED.glob("*.safetensors"))


class Elbo(NamedTuple):
    """The two terms of section 3.4, summed over frame or encoding, averaged over steps and walks; nats."""

    log_likelihood: Tensor  # () E_q(z|x) log p(x_t | z_t)
    kl: Tensor  # () E_q(s) KL(q(z_t | x_t) || p(z_t | s_t, M)), by the same single sample; with landmarks, the KL of s_t is added


class GTMSM(nn.Module):
    """A generative temporal model with spatial memory.

    Args:
        frame_shape: (H, W, C) of the world's frames
        num_actions: A
        state_size: n, 2 for a place in the plane, 3 for a place and a heading
        z_size: d; the paper's 16 or ours of 64
        hidden: width of the networks; in first person, of the prior "combined" alone
        K: neighbours the prior reads
        delta: softens its weights (section 4.1)
        sigma_s: deviation of one transition, in the state's unit
        sigma_x: deviation of the Gaussian likelihood, for x in [0, 1]
        law: how actions move the state: "walls" (equation 4), or in first person "rotation" (5), "walking" (6) or "hard walking"
        prior: "views", what remembered views show once moved; or the paper's, "mixture" and in first person "combined"
        extent: of "views" elsewhere: pixels from where a walk begins within which what it saw is laid side by side
        camera: of "views" in first person: "field_of_view" in degrees, "height" and "ceiling" over the floor
        learned_metric: of "combined": whether distances are measured after a learned linear map
        landmarks: how many remembered views correct the inferred state (appendix D); 0 for none, when actions alone tell it
        reach: with landmarks, how many steps from the start obstacles are remembered
        contacts: in first person, whether the frames before and after a step tell what stopped it; the camera is needed for it
        world: what the model was trained on: {"id": ..., "kwargs": ..., "start": ...}; a dream of another world is refused
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        num_actions: int,
        *,
        state_size: int = 2,
        z_size: int = 64,
        hidden: int = 512,
        K: int = 5,
        delta: float = 1e-4,
        sigma_s: float = 1e-3,
        sigma_x: float = 0.01,
        law: str = "walls",
        prior: str = "views",
        extent: int = 24,
        camera: dict[str, float] | None = None,
        learned_metric: bool = False,
        landmarks: int = 0,
        reach: int = 8,
        contacts: bool = False,
        world: dict | None = None,
    ) -> None:
        super().__init__()
        first_person, paper = law != "walls", "mixture" if law == "walls" else "combined"
        if law not in LAWS or prior not in ("views", paper):
            raise ValueError(
                f"The laws are {list(LAWS)}, and the priors of {law!r} are 'views' and {paper!r}, the paper's; "
                f"given prior={prior!r}, law={law!r}."
            )
        if (first_person and state_size != 3) or (first_person and prior == "views") != (camera is not None):
            raise ValueError(
                "In first person a state is a place and a heading, state_size=3, and there the prior 'views' alone is told its camera, "
                f"{{'field_of_view': ..., 'height': ..., 'ceiling': ...}}; given law={law!r}, state_size={state_size}, prior={prior!r}, "
                f"camera={camera}."
            )
        if learned_metric and prior != "combined":
            raise ValueError(f"A metric is learned for the prior 'combined' alone; given learned_metric=True with prior={prior!r}.")
        if first_person and (frame_shape[0] != frame_shape[1] or frame_shape[0] % 8):
            raise ValueError(
                f"In first person frames are square, of 8, 16, 24, ... pixels a side, which are halved three times; given {frame_shape}."
            )
        if landmarks < 0 or (landmarks and (state_size != 2 or reach < 1)):
            raise ValueError(
                "Landmarks are counted, and obstacles kept on a lattice in the plane around the start: landmarks of 0 or more, and with "
                f"some state_size=2 and reach of 1 or more; given landmarks={landmarks}, state_size={state_size}, reach={reach}."
            )
        if contacts and (camera is None or law == "rotation"):
            raise ValueError(
                "Contacts are felt by a walker that is told its camera, of the prior 'views' in first person; given contacts=True with "
                f"law={law!r}, prior={prior!r}, camera={camera}."
            )
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__", "first_person", "paper")}
        height, width, channels = frame_shape
        self.frame_shape, self.num_actions, self.world = tuple(frame_shape), num_actions, world
        self.K, self.delta, self.sigma_x = K, delta, sigma_x
        x_shape = (channels, height, width)
        self.encoder: Encoder | ConvEncoder
        self.decoder: Decoder | ConvDecoder
        self.transition: LinearWithWalls | FirstPerson
        if first_person:
            self.encoder, self.decoder = ConvEncoder(x_shape, z_size), ConvDecoder(x_shape, z_size)
            self.transition = LAWS[law](num_actions, sigma_s=sigma_s)
        else:
            self.encoder, self.decoder = Encoder(math.prod(x_shape), z_size, hidden), Decoder(x_shape, z_size, hidden)
            self.transition = LinearWithWalls(num_actions, state_size, sigma_s)
        self.views = ViewsPrior(x_shape, z_size, state_size, extent) if prior == "views" and not first_person else None
        self.combined = CombinedPrior(z_size, K, learned_metric, hidden) if prior == "combined" else None
        self.projected = ProjectedViews(x_shape, z_size, camera, K) if camera is not None else None
        self.contacts = Contacts(camera, height) if contacts and camera is not None else None
        self.landmarks = Landmarks(landmarks, delta) if landmarks else None
        self.obstacles = Obstacles(reach) if landmarks else None

    def halved(self) -> GTMSM:
        """A copy whose networks of what is imagined to be seen compute in bfloat16, faster where the device does.

        Encodings, states and what stops the agent stay as they are.
        """
        model = copy.deepcopy(self)
        shown: list[nn.Module | None] = [model.decoder, model.combined]
        if model.projected is not None:
            shown += [model.projected.sight, model.projected.mend]
        for net in (net for part in shown if part is not None for net in part.modules() if isinstance(net, Network)):
            net.bfloat16()
        return model

    # ---------------------------------------------------------------- the verbs

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | x): uint8 frames (*B, H, W, C) -> mean, variance (*B, d)."""
        self._check(frames)
        mean, variance = self.encoder(frames_to_x(frames))
        return mean, variance

    def _check(self, frames: Tensor, batch: torch.Size | None = None) -> None:
        """Refuses what is no frame, or not one for each belief of this batch shape."""
        if frames.dtype != torch.uint8 or tuple(frames.shape[-3:]) != self.frame_shape:
            nan = " with NaN" if frames.is_floating_point() and bool(frames.isnan().any()) else ""
            raise ValueError(
                f"A frame is uint8 of shape {self.frame_shape}, 0 to 255; given {frames.dtype}{nan} of shape {tuple(frames.shape)}. "
                "Pass the world's frames as they come."
            )
        if batch is not None and frames.shape[:-3] != batch:
            raise ValueError(f"Each belief sees one frame: beliefs are {tuple(batch)}, given frames of shape {tuple(frames.shape)}.")

    def encode_walk(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`encode` of walks (*B, T, H, W, C), a walk at a time and each of its distinct frames once: most of a walk is seen again."""
        self._check(frames)
        means, variances = [], []
        for walk in frames.reshape(-1, *frames.shape[-4:]):
            first, index = distinct_frames(walk)
            mean, variance = self.encode(walk[first])
            means.append(mean[index])
            variances.append(variance[index])
        return torch.stack(means).reshape(*frames.shape[:-3], -1), torch.stack(variances).reshape(*frames.shape[:-3], -1)

    @torch.no_grad()
    def initial(self, frame: Tensor) -> Belief:
        """The belief on seeing x_1, uint8 (*B, H, W, C): s_1 = 0 and a memory of one entry."""
        z_mean, z_variance = self.encode(frame)
        s = z_mean.new_zeros(*z_mean.shape[:-1], self.transition.W_a.shape[0])
        variance = torch.full_like(s, self.transition.sigma_s**2)
        zero = s.new_zeros(s.shape[:-1])
        values = {"z_mean": z_mean, "z_variance": z_variance, "reward": zero, "termination": zero.bool()}
        if self.landmarks is not None:
            values |= {"origin": s, "action": zero.long() - 1, "effect": zero + 1}
        if self.projected is not None:
            values["frame"] = frame
        values = {name: value.unsqueeze(s.dim() - 1) for name, value in values.items()}
        memory = SpatialMemory(s.unsqueeze(-2), variance.unsqueeze(-2), values, facts=self._signed(s.shape[:-1]))
        return Belief(s, variance, torch.zeros_like(s), memory, frame.clone() if self.contacts is not None else None)

    @torch.no_grad()
    def observe(
        self,
        belief: Belief,
        action: Tensor,
        frame: Tensor,
        reward: Tensor | None = None,
        termination: Tensor | None = None,
        where: Tensor | None = None,
        counted: Tensor | None = None,
        moved: Belief | None = None,
    ) -> Belief:
        """A real step: the belief moves by a_t (*B,) as `infer` says, and x_t (*B, H, W, C) is written to memory (eq. 3).

        reward, termination: (*B,) received on arriving at x_t, 0 by default as a world without a task gives.
        where: (*B,) bool, rows whose memory is written, all by default.
        counted: (*B,) bool, with landmarks and a memory of `places`: rows whose move is counted at the place it left, `where` by default.
        moved: what `infer` gives of this step, for who has asked it already.
        """
        self._check_actions(action, belief.mean.shape[:-1])
        self._check(frame, action.shape)
        if reward is not None:
            check_rewards(reward)
        if where is not None and (where.dtype != torch.bool or where.shape != action.shape):
            raise ValueError(
                f"`where` says of each belief whether its memory is written: bool of shape {tuple(action.shape)}, given {where.dtype} of "
                f"shape {tuple(where.shape)}. Leave it out to write all."
            )
        if where is None or (self.landmarks is not None and moved is None):
            z_mean, z_variance = self.encode(frame)
        else:  # frames that are neither remembered nor compared are not looked at
            z_mean, z_variance = frame.new_zeros(2, *where.shape, self.config["z_size"], dtype=belief.mean.dtype)
            z_mean[where], z_variance[where] = self.encode(frame[where])
        if self.projected is None and "view" in belief.memory.values:  # of what is written now, it would have to be decoded too
            belief = replace(belief, memory=belief.memory.but({k: v for k, v in belief.memory.values.items() if k != "view"}))
        before, belief = belief, moved or self._infer(belief, action, frame, z_mean)
        entry = {
            "z_mean": z_mean,
            "z_variance": z_variance,
            "reward": z_mean.new_zeros(action.shape) if reward is None else reward,
            "termination": torch.zeros(action.shape, dtype=torch.bool, device=action.device) if termination is None else termination,
        }
        if self.projected is not None:
            entry["frame"] = frame
            if "view" in belief.memory.values:
                entry |= self.projected.entry(belief.mean, frame, belief.memory)
        of_places = "tried" in before.memory.values
        if of_places:
            entry["tried"] = entry["moved"] = z_mean.new_zeros(*action.shape, self.num_actions)
        elif self.landmarks is not None:
            entry |= zip(KEPT, (before.mean, action, self._effect(before, belief, action)), strict=True)
        belief = replace(belief, memory=before.memory.write(belief.mean, belief.variance, where, **entry))
        return self._count_move(before, belief, action, where if counted is None else counted) if of_places else belief

    def _count_move(self, before: Belief, after: Belief, action: Tensor, where: Tensor | None) -> Belief:
        """`after` a real step from `before` by a_t (*B,), its memory of places knowing what the move did: for rows `where`, or all."""
        where = torch.ones_like(action, dtype=torch.bool) if where is None else where
        origin, action, share, where = (
            x.unsqueeze(action.dim()) for x in (before.mean, action, self._effect(before, after, action), where)
        )
        assert self.obstacles is not None
        assert isinstance(self.transition, LinearWithWalls)
        places = count_moves(after.memory, origin, action, share, where, WITHIN * self.step_length)
        return replace(after, memory=self.obstacles.complete(places, self.transition))

    def _effect(self, before: Belief, after: Belief, action: Tensor) -> Tensor:
        """What share of the displacement that the transition expects was there, (*B,)."""
        expected = self._move(before, action).mean - before.mean
        return effect(after.mean - before.mean, expected, WITHIN * self.step_length)

    @torch.no_grad()
    def infer(self, belief: Belief, action: Tensor, frame: Tensor) -> Belief:
        """A real step that is not remembered: q(s_t) after a_t (*B,) on seeing x_t (*B, H, W, C), which a model with landmarks or contacts
        looks at.

        `displacement` is then the inferred one, or the momentum that is left: next to nothing for a blocked move.
        """
        self._check_actions(action, belief.mean.shape[:-1])
        if self.landmarks is None and self.contacts is None:  # nothing is looked at
            return self._move(belief, action)
        self._check(frame, action.shape)
        return self._infer(belief, action, frame, None if self.landmarks is None else self.encode(frame)[0])

    def _infer(self, belief: Belief, action: Tensor, frame: Tensor, z_mean: Tensor | None) -> Belief:
        predicted = self._move(belief, action)
        if self.contacts is not None:
            frame = frame.clone()  # not what an environment may write its next one into
            if belief.frame is None:
                return replace(predicted, frame=frame)
            lost, variance = self._lost(belief.frame, frame, belief.mean, predicted.mean)
            mean, u = predicted.mean - turned(lost, belief.mean[..., 2]), predicted.displacement - lost
            return replace(predicted, mean=mean, variance=predicted.variance + variance, displacement=u, frame=frame)
        if z_mean is None or self.landmarks is None:
            return predicted
        mean, variance, _ = self._correct(belief.mean, belief.variance, predicted.mean, z_mean, belief.memory)
        return replace(belief, mean=mean, variance=variance, displacement=mean - belief.mean)

    def _lost(self, before: Tensor, after: Tensor, s: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """What the frames before and after a step from s (*B, n) say that was lost of it, seen from s, and its variance, (*B, n) each."""
        assert self.contacts is not None
        given = (before.reshape(-1, *self.frame_shape), after.reshape(-1, *self.frame_shape), relative(predicted, s).reshape(-1, 3))
        lost, variance = self.contacts.lost(*given)
        return lost.reshape(s.shape), variance.reshape(s.shape)

    def _correct(self, s: Tensor, variance: Tensor, predicted: Tensor, z_mean: Tensor, memory: SpatialMemory) -> Inferred:
        """A step of the posterior from q(s_{t-1}), all arguments (*B, ...) as for `Landmarks`."""
        assert self.landmarks is not None
        found = memory.read_reverse(z_mean, self.landmarks.K, fewer=True)
        inferred: Inferred = self.landmarks(
            s, variance, predicted, self.transition.sigma_s, self.step_length, found.distance, found.s_mean, found.s_variance
        )
        return inferred

    @torch.no_grad()
    def relocate(self, frame: Tensor, memory: SpatialMemory) -> Belief:
        """The belief on waking up somewhere in a remembered world: x_t (*B, H, W, C) alone tells where.

        Where it does not, the belief is as wide as all that is remembered, and `infer` narrows it as soon as a step tells.
        ValueError for a model without landmarks.
        """
        if self.landmarks is None:
            raise ValueError("Landmarks find a lost agent, and this model has none. Take one that was trained with them: landmarks=16.")
        if not memory.count.all():
            raise ValueError("A lost agent is found by what it remembers, and a memory given is empty. Walk in the world first.")
        weight = memory.used[..., None] / memory.count[..., None, None]  # (*B, N, 1)
        mean = (weight * memory.s_mean).sum(dim=-2)
        variance = (weight * (memory.s_mean - mean[..., None, :]).square()).sum(dim=-2) + self.step_length**2
        mean, variance, _ = self._correct(mean, variance, mean, self.encode(frame)[0], memory)
        return Belief(mean, variance, torch.zeros_like(mean), memory)

    @torch.no_grad()
    def remember(self, walk: Walk) -> Belief:
        """The past encoder (eq. 3) over a whole walk: what `initial` and `observe` give step by step, in one pass."""
        if walk.rewards is not None:
            check_rewards(walk.rewards)
        z_mean, z_variance = self.encode_walk(walk.frames)
        mean, variance, u, _ = self.infer_walk(z_mean, walk.actions, frames=walk.frames)
        zero = mean.new_zeros(mean.shape[:-1])
        values = {
            "z_mean": z_mean,
            "z_variance": z_variance,
            "reward": zero if walk.rewards is None else walk.rewards,
            "termination": zero.bool() if walk.terminations is None else walk.terminations,
        }
        if self.landmarks is not None:
            before, action = mean[..., :-1, :], walk.actions
            expected = self.transition(before, u[..., :-1, :], action)[1]
            share = effect(u[..., 1:, :], expected, WITHIN * self.step_length)
            parts = (before, mean[..., :1, :], -2), (action, zero[..., :1].long() - 1, -1), (share, zero[..., :1] + 1, -1)
            values |= {name: torch.cat([first, x], dim=axis) for name, (x, first, axis) in zip(KEPT, parts, strict=True)}
        if self.projected is not None:
            values["frame"] = walk.frames
        memory = SpatialMemory(mean, variance, values, facts=self._signed(mean.shape[:-2]))
        last = walk.frames[..., -1, :, :, :].clone() if self.contacts is not None else None
        return Belief(mean[..., -1, :], variance[..., -1, :], u[..., -1, :], memory, last)

    def predict(self, belief: Belief, action: Tensor) -> Belief:
        """One imagined step by a_t (*B,) int64: p(s_t | s_{t-1}, a_t), but against nothing that the memory knows to be in the way.

        With landmarks that is what stopped a step before, with projected views what they have seen. Others ask nothing of the memory.
        """
        self._check_actions(action, belief.mean.shape[:-1])
        mean, u = self.advance(belief.mean, belief.displacement, action, self.stops(belief.memory))
        return replace(belief, mean=mean, variance=belief.variance + self.transition.sigma_s**2, displacement=u, frame=None)

    def advance(self, s: Tensor, u: Tensor, action: Tensor, stops: Stops | None) -> tuple[Tensor, Tensor]:
        """`predict` of the means alone, by actions that nobody checks: s, u (*B, n), a_t (*B,) int64 -> s_t, u_t (*B, n)."""
        if stops is None:
            moved: tuple[Tensor, Tensor] = self.transition(s, u, action)
            return moved
        s, u = self.transition.rollout(s, u, action[..., None], stops=stops)
        return s.squeeze(-2), u.squeeze(-2)

    def _move(self, belief: Belief, action: Tensor) -> Belief:
        """p(s_t | s_{t-1}, a_t): action (*B,) int64."""
        mean, u = self.transition(belief.mean, belief.displacement, action)
        return replace(belief, mean=mean, variance=belief.variance + self.transition.sigma_s**2, displacement=u)

    def imagine(self, belief: Belief, actions: Tensor) -> Belief:
        """States from actions alone: actions (*B, *C, T), C plans for each belief -> a belief of shape (*B, *C, T), one a step.

        As `predict` does step by step; who imagines many times with landmarks gives a memory of `places`, which is otherwise made anew.
        """
        self._check_actions(actions, belief.mean.shape[:-1], sequences=True)
        plans = actions.dim() - belief.mean.dim()  # how many axes C has
        lead = (*belief.mean.shape[:-1], *(1,) * plans)
        shape = (*actions.shape[:-1], belief.mean.shape[-1])
        s, u = (x.reshape(*lead, -1).expand(shape) for x in (belief.mean, belief.displacement))
        mean, u = self.transition.rollout(s, u, actions, stops=self.stops(belief.memory))
        steps = torch.arange(1, actions.shape[-1] + 1, device=mean.device)[:, None]
        variance = belief.variance.reshape(*lead, 1, -1) + steps * self.transition.sigma_s**2
        return replace(belief, mean=mean, variance=variance.expand_as(mean), displacement=u, frame=None)

    def stops(self, memory: SpatialMemory) -> Stops | None:
        """What becomes of moves; None where model or memory knows nothing of obstacles.

        By the law of equation 4, of the states (*B, *C, n) they would lead to: whether they are stopped, (*B, *C) bool. In first person, of
        the states they begin at and would lead to: where they lead, (*B, *C, 3).
        """
        if isinstance(self.transition, FirstPerson) and "clearance" in memory.facts:
            return projection.stops(memory, self.transition.top_speed)
        if self.obstacles is None or not {"tried", "effect"} & memory.values.keys():
            return None
        memory = memory if "obstacle" in memory.facts else self.places(memory)
        return self.obstacles.stops(memory.facts["obstacle"], axes_of(self.transition.W_a))

    def places(self, memory: SpatialMemory) -> SpatialMemory:
        """The distinct places of a memory, as many at least as the prior reads; with landmarks, and what moves did from each."""
        return result_of(self.finding_places(memory))

    @torch.no_grad()
    def finding_places(self, memory: SpatialMemory) -> Generator[bool, None, SpatialMemory]:
        """`places`, which in first person lets others work now and then."""
        places = self._distinct(memory)
        places = places if "model" in places.facts else places.but(facts=places.facts | self._signed(places.batch_shape))
        if self.projected is not None and "clearance" not in places.facts:
            return (yield from self.projected.recalling(places))
        if self.obstacles is None or not memory.values.keys() >= set(KEPT):
            return places
        assert isinstance(self.transition, LinearWithWalls)
        origin, action, share = (memory.values[name] for name in KEPT)
        empty = without_moves(places, self.num_actions)
        counted = count_moves(empty, origin, action, share, memory.used, WITHIN * self.step_length)
        return self.obstacles.complete(counted, self.transition)

    def _distinct(self, memory: SpatialMemory) -> SpatialMemory:
        return memory.distinct(WITHIN * self.step_length, at_least=self.K)

    def obstacle_states(self, memory: SpatialMemory) -> Tensor:
        """Where one memory of places, (P,) entries, knows obstacles: (O, n), to be drawn."""
        if self.projected is not None and "plan" in memory.facts:
            found = standing(memory.facts["plan"])
            near = torch.cdist(found, memory.s_mean[:, :2]).amin(dim=1) < 2.5  # what lies farther is more often wrong than not
            return F.pad(found[near], (0, 1))
        if self.obstacles is None or "obstacle" not in memory.facts:
            return memory.s_mean[:0]
        return self.obstacles.states(axes_of(self.transition.W_a))[memory.facts["obstacle"].flatten()]

    def free(self, belief: Belief) -> Tensor:
        """Which actions are expected to lead elsewhere, by half a step at least, (*B, A) bool: not against an edge or a known obstacle."""
        return self.leads(belief.mean, belief.displacement, self.stops(belief.memory)) > WITHIN * self.step_length

    def leads(self, s: Tensor, u: Tensor, stops: Stops | None) -> Tensor:
        """How far each action is expected to lead from s, after u (*B, n): (*B, A), in the unit of the state."""
        actions = torch.arange(self.num_actions, device=s.device).expand(*s.shape[:-1], -1)
        s, u = (x[..., None, :].expand(*actions.shape, -1) for x in (s, u))
        return (self.advance(s, u, actions, stops)[0] - s).norm(dim=-1)

    def recall(self, memory: SpatialMemory) -> SpatialMemory:
        """The memory as the prior reads it: for the views prior its distinct places and a canvas of what they saw; in first person their
        frames and depths.

        `prior` and `decode` do this themselves; whoever decodes many times from one memory does it once.
        """
        self.check_sizes(memory)
        if self.projected is not None:  # memories saved by earlier versions lack the clearance
            return memory if "view" in memory.values and "clearance" in memory.facts else self.projected.recall(memory)
        return memory if self.views is None or "canvas" in memory.facts else result_of(self.drawing(self._distinct(memory)))

    def drawing(self, places: SpatialMemory) -> Generator[bool, None, SpatialMemory]:
        """Distinct places with what they saw decoded: each one's view for the paper's mixture, a canvas of all of it for the views prior.

        Lets others work now and then. ValueError for an empty memory, or places for which a canvas has no room.
        """
        views = self.decoder(places.values["z_mean"])
        if self.views is None:
            return places.but(values=places.values | {"view": views})
        return places.but(facts=places.facts | {"canvas": (yield from self.views.drawing(views, places.s_mean, places.count))})

    def check_sizes(self, memory: SpatialMemory) -> None:
        """Refuses a memory of states or encodings of other sizes, which another model wrote. Raises ValueError."""
        n, d = self.transition.W_a.shape[0], self.config["z_size"]
        if (memory.s_mean.shape[-1], memory.values["z_mean"].shape[-1] if "z_mean" in memory.values else d) != (n, d):
            raise ValueError(
                f"A memory is read by the model that wrote it, here of states of {n} and encodings of {d} numbers; given {memory}."
            )

    def prior(self, s: Tensor, memory: SpatialMemory) -> GaussianMixture:
        """p(z | s, M): s (*B, *Q, n) in a memory of batch shape (*B,) -> a mixture of shape (*B, *Q)."""
        return self.expect(s, memory)[0]

    def expect(self, s: Tensor, memory: SpatialMemory) -> tuple[GaussianMixture, Tensor | None]:
        """p(z | s, M) and, of views, what their canvas shows (*B, *Q, C, H, W)."""
        memory = self.recall(memory)
        if self.projected is not None:
            canvas, laid = self.projected(s, memory)
            return self.projected.prior(laid, self.encoder(canvas)[0]), canvas
        if self.combined is not None:
            one: GaussianMixture = self.combined(memory.read(s, self.combined.K, self.combined.metric), s)
            return one, None
        if self.views is None:
            return mixture_prior(memory.read(s, self.K), self.delta), None
        return self.views(memory.read(s, self.K), memory.facts["canvas"], s, self.encoder, self.delta)

    def generate(self, z: Tensor, canvas: Tensor | None = None) -> Tensor:
        """The mean of p(x | z), or of p(x | z, s, M) on a canvas of views (*B, C, H, W): z (*B, d) -> (*B, C, H, W)."""
        x: Tensor = self.decoder(z)
        return x if canvas is None else canvas + x - self.decoder(self.encoder(canvas)[0])

    def decode(self, s: Tensor, memory: SpatialMemory) -> Tensor:
        """What is expected to be seen at s (*B, *Q, n): the canvas, or without one the heaviest z decoded. uint8 (*B, *Q, H, W, C)."""
        memory = self.recall(memory)
        if self.projected is not None:
            return x_to_frames(self.projected(s, memory)[0])
        if self.views is not None:
            return self.views.frames(memory.facts["canvas"], s)
        if self.combined is None and "view" in memory.values:
            return self._looked_up(s, memory)
        return x_to_frames(self.decoder(self.prior(s, memory).heaviest()))

    @staticmethod
    def _looked_up(s: Tensor, memory: SpatialMemory) -> Tensor:
        """`decode` of the mixture, whose heaviest component is the nearest entry, where each has been decoded once."""
        axes, rows = len(memory.batch_shape), memory.count.numel()
        index = memory.nearest(s, 1)[1].flatten()
        row = torch.arange(rows, device=s.device).repeat_interleave(len(index) // max(1, rows))
        views = memory.values["view"].reshape(rows, *memory.values["view"].shape[axes:])
        frames = looked_up(views, row, index)
        return frames.reshape(*s.shape[:-1], *frames.shape[1:])

    @torch.no_grad()
    def locate(self, frame: Tensor, memory: SpatialMemory, k: int = 1) -> Neighbours:
        """Where a frame was seen: the k entries whose encodings are nearest. frame (*B, *Q, H, W, C) -> Neighbours (*B, *Q, k)."""
        return memory.read_reverse(self.encode(frame)[0], k)

    def novelty(self, s: Tensor, memory: SpatialMemory) -> Tensor:
        """How far s (*B, *Q, n) is from anything remembered, in steps: (*B, *Q)."""
        return memory.nearest(s, 1)[0].squeeze(-1) / self.step_length

    @property
    def axes(self) -> Tensor | None:
        """How far down and to the right states (n,) are drawn on a map for each of their numbers, (n, 2); None where nothing tells."""
        if self.views is not None:
            return self.views.A
        return torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]) if self.transition.W_a.shape[0] == 3 else None  # east, north, heading

    def in_steps(self, s: Tensor) -> Tensor:
        """States (*B, n) as agents are told them, see `types.in_steps`."""
        return in_steps(s, self.step_length)

    def from_steps(self, told: Tensor) -> Tensor:
        """The states that `in_steps` tells."""
        place = told[..., :2] * self.step_length
        return place if told.shape[-1] == 2 else torch.cat([place, torch.atan2(told[..., 3:], told[..., 2:3])], dim=-1)

    @property
    def step_length(self) -> float:
        """The length of one step in the state's unit."""
        return self.transition.step_length

    @property
    def turn_length(self) -> float:
        """The largest turn of one step in radians, infinite where states have no heading."""
        return self.transition.turn_length if isinstance(self.transition, FirstPerson) else math.inf

    def _check_actions(self, actions: Tensor, batch: torch.Size, sequences: bool = False) -> None:
        """Refuses what is no action, which indexing would take for another: -1 for the last, bytes for a mask."""
        if not isinstance(actions, Tensor) or actions.dtype != torch.int64:
            given = actions.dtype if isinstance(actions, Tensor) else type(actions)
            raise ValueError(f"Actions are a tensor of integers from 0 to {self.num_actions - 1}, as int64; given {given}.")
        if actions.shape[: len(batch)] != batch or (actions.dim() > len(batch)) != sequences:
            what = "sequences of actions" if sequences else "one action"
            raise ValueError(f"Each belief takes {what}: beliefs are {tuple(batch)}, given actions of shape {tuple(actions.shape)}.")
        if actions.numel():
            low, high = (int(bound) for bound in actions.aminmax())
            if low < 0 or high >= self.num_actions:
                outside = low if low < 0 else high
                raise ValueError(f"An action is one of 0 to {self.num_actions - 1}; given {outside}. Number actions as the world does.")

    # ---------------------------------------------------------------- learning

    def filter(self, actions: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q(s_1)..q(s_T) from actions (*B, T-1): means, variances and displacements, (*B, T, n) each (eq. 3).

        lengths: (*B, T-1) scales each move where walls are not yet learned: 0 for a move that changed nothing.
        """
        self._check_actions(actions, actions.shape[:-1], sequences=True)
        s = self.transition.W_a.new_zeros(*actions.shape[:-1], self.transition.W_a.shape[0])
        mean, u = self.transition.rollout(s, s, actions, lengths)
        mean, u = (torch.cat([s[..., None, :], x], dim=-2) for x in (mean, u))
        steps = torch.arange(1, mean.shape[-2] + 1, device=mean.device)[:, None]
        return mean, (steps * self.transition.sigma_s**2).expand_as(mean), u

    def infer_walk(
        self, z_mean: Tensor, actions: Tensor, lengths: Tensor | None = None, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `infer` makes of whole walks, each frame compared with those before it: `filter` with landmarks, and the KL of s_t.

        z_mean: (*B, T, d) of q(z_t | x_t); actions: (*B, T-1); lengths: as for `filter`, without landmarks only
        frames: (*B, T, H, W, C) uint8, which contacts are felt by
        Returns means, variances, displacements (*B, T, n), and E_q(s_{t-1}) KL(q(s_t | ...) || p(s_t | s_{t-1}, a_t)) (*B, T), 0 at x_1.
        """
        if self.contacts is not None and frames is not None:
            return self._feel(frames, actions)
        if self.landmarks is None:
            mean, variance, u = self.filter(actions, lengths)
            return mean, variance, u, mean.new_zeros(mean.shape[:-1])
        self._check_actions(actions, z_mean.shape[:-2], sequences=True)
        steps, n = z_mean.shape[-2], self.transition.W_a.shape[0]
        z, a = z_mean.reshape(-1, *z_mean.shape[-2:]), actions.reshape(-1, steps - 1)  # (B, T, d), (B, T-1)
        found = nearest_before(z, min(self.landmarks.K, steps))  # (B, T, K)
        row, step_length, sigma_s = torch.arange(len(z), device=z.device)[:, None], self.step_length, self.transition.sigma_s
        s = z.new_zeros(len(z), n)
        variance = torch.full_like(s, sigma_s**2)
        states = torch.cat([s, variance], dim=-1)[:, None]  # (B, t, 2n) of the steps so far
        displacements, kls = [s], [s.new_zeros(len(s))]
        for t in range(1, steps):
            predicted, _ = self.transition(s, displacements[-1], a[:, t - 1])
            index = found[:, t, : min(t, self.landmarks.K)]
            rho = (z[:, t, None] - z[row, index]).square().sum(dim=-1).clamp(min=1e-20).sqrt()
            s_k, v_k = states[row, index].split(n, dim=-1)
            before = s
            s, variance, kl = self.landmarks(s, variance, predicted, sigma_s, step_length, rho, s_k, v_k)
            states = torch.cat([states, torch.cat([s, variance], dim=-1)[:, None]], dim=1)
            displacements.append(s - before)
            kls.append(kl)
        shape = (*z_mean.shape[:-1], n)
        mean, variances = (x.reshape(shape) for x in states.split(n, dim=-1))
        return mean, variances, torch.stack(displacements, dim=1).reshape(shape), torch.stack(kls, dim=1).reshape(shape[:-1])

    def _feel(self, frames: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`infer_walk` with contacts: of some steps at once, as if nothing were in the way, those up to the first contact count."""
        self._check_actions(actions, frames.shape[:-4], sequences=True)
        steps, lead = actions.shape[-1], actions.shape[:-1]
        x, a = frames.reshape(-1, *frames.shape[-4:]), actions.reshape(lead.numel(), steps)  # (B, T, H, W, C), (B, T-1)
        row, square = torch.arange(len(a), device=a.device)[:, None], self.transition.sigma_s**2
        mean, u, lost, more = (self.transition.W_a.new_zeros(len(a), steps + 1, 3) for _ in range(4))
        t, k = torch.zeros_like(row), 1  # (B, 1), how many steps are known; how many more are looked at, twice as many if nothing was met
        while bool((t < steps).any()):
            ahead = torch.arange(k, device=a.device)
            at = (t + ahead).clamp(max=steps - 1)  # (B, k)
            s, momentum = self.transition.rollout(mean[row, t].squeeze(1), u[row, t].squeeze(1), a[row, at])
            before = torch.cat([mean[row, t], s[:, :-1]], dim=1)
            felt, variance = self._lost(x[row, at], x[row, at + 1], before, s)
            met = felt.any(dim=-1).long()
            known = (met.cumsum(dim=1) == met) & (t + ahead < steps)
            which, to = row.expand_as(at)[known], at[known] + 1
            mean[which, to], u[which, to] = (s - turned(felt, before[..., 2]))[known], (momentum - felt)[known]
            lost[which, to], more[which, to] = felt[known], variance[known]
            t = t + known.sum(dim=1, keepdim=True)
            k = 1 if bool(met.any()) else min(2 * k, max(1, 2 * AT_ONCE // len(a)))
        kl = 0.5 * ((more + lost.square()) / square - (1 + more / square).log()).sum(dim=-1)
        mean, variance, u = (x.reshape(*lead, steps + 1, 3) for x in (mean, (more + square).cumsum(dim=1), u))
        return mean, variance, u, kl.reshape(*lead, steps + 1)

    def forward(
        self, frames: Tensor, index: Tensor, actions: Tensor, tau: int, prior: Prior | None = None, generator: torch.Generator | None = None
    ) -> Elbo:
        """The ELBO (section 3.4) of steps tau+1..T, given that steps 1..tau are remembered.

        Args:
            frames: (B, F, H, W, C) uint8, the distinct frames of each walk: each is encoded once
            index: (B, T) int64, x_t = frames[index_t]
            actions: (B, T-1) int64
            prior: p(z | s, M), this model's own by default
        """
        q_mean, q_variance = (torch.take_along_dim(q, index[..., None], dim=1) for q in self.encode(frames))  # (B, T, d)
        canvas: Tensor | None = None

        def expected(s: Tensor, memory: SpatialMemory) -> GaussianMixture:
            nonlocal canvas
            if self.projected is not None:
                seen = torch.take_along_dim(frames, index[:, :tau, None, None, None], dim=1)
                memory = memory.but(memory.values | {"frame": seen})
            mixture, canvas = self.expect(s, memory)
            return mixture

        felt = None if self.contacts is None else torch.take_along_dim(frames, index[..., None, None, None], dim=1)
        kl, z = self.divergence(q_mean, q_variance, actions, tau, prior or expected, generator, frames=felt)
        x = frames_to_x(torch.take_along_dim(frames, index[:, tau:, None, None, None], dim=1))
        variance = torch.tensor(self.sigma_x**2, device=x.device)
        log_likelihood = gaussian_log_prob(x.flatten(2), self.generate(z, canvas).flatten(2), variance)
        return Elbo(log_likelihood.mean(), kl.mean())

    def divergence(
        self,
        q_mean: Tensor,
        q_variance: Tensor,
        actions: Tensor,
        tau: int,
        prior: Prior | None = None,
        generator: torch.Generator | None = None,
        lengths: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """KL(q(z_t | x_t) || p(z_t | s_t, M)) for t > tau by one sample of s_t and z_t: (B, T - tau), and that z (B, T - tau, d).

        q_mean, q_variance: (B, T, d) of q(z_t | x_t), those of t <= tau are remembered; lengths, frames as for `infer_walk`.
        With landmarks or contacts, which steps after tau have too, the KL of s_t is added.
        """
        s_mean, s_variance, _, s_kl = self.infer_walk(q_mean, actions, lengths, frames)
        values = {"z_mean": q_mean[:, :tau], "z_variance": q_variance[:, :tau]}
        memory = SpatialMemory(s_mean[:, :tau], s_variance[:, :tau], values)
        mean, variance = q_mean[:, tau:], q_variance[:, tau:]
        s = s_mean[:, tau:] + s_variance[:, tau:].sqrt() * torch.empty_like(s_mean[:, tau:]).normal_(generator=generator)
        z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
        kl = gaussian_log_prob(z, mean, variance) - (prior or self.prior)(s, memory).log_prob(z)
        return kl + s_kl[:, tau:], z

    # ---------------------------------------------------------------- disk

    def fingerprint(self) -> str:
        """Names these weights: a memory is only readable by the model that wrote it."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # which NumPy does not know
            digest.update(name.encode() + known.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def signature(self) -> int:
        """The fingerprint as a number, which memories carry as the fact `model`."""
        return int(self.fingerprint(), 16) >> 1  # of 63 bits

    def _signed(self, batch: torch.Size) -> dict[str, Tensor]:
        return {"model": torch.full(batch, self.signature(), device=self.transition.W_a.device)}

    def save(self, path: str | Path, **card: object) -> None:
        """Weights as safetensors, everything else as JSON; `card` is what a reader should know of how it was trained."""
        save_checkpoint(path, self.state_dict(), {"kind": "model", "model": self.config, "card": card})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> GTMSM:
        """A saved model, or by its name one that ships. Raises CheckpointError."""
        try:
            tensors, config = load_checkpoint(PRETRAINED / path if str(path) in shipped() else path, kind="model")
        except CheckpointError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                if Path(path).with_name("training.json").exists():
                    raise CheckpointError(f"{path} is there once its training has ended: go on with it, --resume.") from error
                raise CheckpointError(f"{error} The models that ship are {shipped()}; any other is named by its path.") from error
            raise
        try:
            with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
                model = cls(**config["model"])
            check_keys(tensors, model.state_dict(), str(path))
            model.load_state_dict(tensors)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # arguments or shapes of another version
            raise CheckpointError(
                f"A model's JSON holds the arguments of GTMSM, and its tensors fit them; those of {path} do not ({error}): "
                "load it with the version of gtmsm-env that saved it."
            ) from error
        return model.to(device).eval().requires_grad_(False)
