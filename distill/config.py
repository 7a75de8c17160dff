"""Configuration of a run: everything that a YAML file or the command line can set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from amplification.budget import Limits
from amplification.overseers.config import OverseerConfig, ServedModel
from amplification.serving.config import ServingConfig
from amplification.voting import Voting


class Settings(BaseModel):
    """Unknown keys and numbers that are not finite are refused; values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """The base model: a Llama made from scratch, or `pretrained`, a folder or hub name to load instead."""

    pretrained: str | None = None
    width: int = Field(default=96, ge=32)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=3, ge=1)
    max_length: int = Field(default=128, ge=16)  # tokens, prompt and answer together


class BaseConfig(Settings):
    """Training of the base on the form of questions and answers: an even spread over valid answers, no facts."""

    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)


class AdapterConfig(Settings):
    """What of the model is trained, and how it is published.

    lora: a LoRA adapter of `rank`, carried on from generation to generation. linear: the linear layers' whole weights,
    published as a LoRA adapter whose rank is the model's width, so that it is exact; for small models, whose width a
    server takes as a rank. full: all weights, published as a model of their own (`rank` and `alpha` mean nothing to
    the last two).
    """

    method: Literal["lora", "linear", "full"] = "lora"
    rank: Literal[1, 8, 16, 32, 64, 128, 256] = 64
    alpha: int = Field(default=128, ge=1)


SelectionRule = Literal["random", "disagreement", "double_thompson"]


class SelectionConfig(Settings):
    """Which of the candidates H^A is asked: at random, or by what a reward ensemble does not know yet.

    In rounds: the first one's questions are random; before each later one a learner and a reward ensemble are trained
    for `steps` on the labels so far, and their view of `pool` candidates for each question asked chooses (see
    `distill.selection`). It takes a few percent fewer labels than random, and training to choose (docs/benchmarks.md).
    """

    by: SelectionRule = "random"
    rounds: int = Field(default=4, ge=2)
    pool: int = Field(default=3, ge=2)
    steps: int = Field(default=100, ge=1)  # optimizer steps a round, of the learner and of each member


class LabelsConfig(Settings):
    """Which questions H^A is asked: `questions` of each task at the new level, `replay` at each older one."""

    questions: int = Field(default=2_000, ge=1)
    replay: int = Field(default=300, ge=0)
    heldout: float = Field(default=0.1, gt=0, lt=1)  # share of labels kept to measure the reward model on
    selection: SelectionConfig = SelectionConfig()

    def candidates(self) -> LabelsConfig:
        """The settings with as many questions as there are candidates."""
        pool = self.selection.pool
        return self.model_copy(update={"questions": self.questions * pool, "replay": self.replay * pool})


class WarmStartConfig(Settings):
    """Supervised learning on H^A's answers (TRL's SFTTrainer) before PPO: so many optimizer steps on batches of labels.

    Steps and not epochs, since the lowest levels have few labels and need as many steps as the others.
    """

    enabled: bool = True
    steps: int = Field(default=600, ge=1)  # of generation 0
    more_steps: int = Field(default=0, ge=0)  # of each generation beyond those of the one before: there is more to keep
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)

    def of(self, generation: int) -> WarmStartConfig:
        """The settings with the steps of one generation."""
        return self.model_copy(update={"steps": self.steps + generation * self.more_steps, "more_steps": 0})


class RefreshConfig(Settings):
    """New labels on the policy's own answers where the reward model has become unsure or wrong during PPO.

    For long PPO trainings, which come to answers that no label was about. Needs `distill.ppo.watch`.
    """

    most: int = Field(default=0, ge=0)  # refreshes of one PPO training; 0: none
    uncertainty: float = Field(default=0.5, gt=0)  # of members' scores: a right and a wrong answer's lie 2 apart
    disagreement: float = Field(default=0.2, gt=0, lt=1)  # share of held-out answers that H^A sees otherwise
    questions: int = Field(default=128, ge=1)  # that H^A is asked in one refresh: more is dearer and lasts longer
    steps: int = Field(default=60, ge=1)  # that each member is trained on


class RewardConfig(Settings):
    """The reward ensemble, learned from H^A's preferences (TRL's RewardTrainer)."""

    members: int = Field(default=2, ge=1)
    pairs_per_label: int = Field(default=2, ge=1)
    steps: int = Field(default=150, ge=1)  # of each member
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    extra_layers: int = Field(default=1, ge=0)  # on top of the agent's: where its answer is compared with the given one
    aggregate: Literal["mean_minus_spread", "minimum"] = "mean_minus_spread"
    refresh: RefreshConfig = RefreshConfig()


class WriterConfig(ServedModel):
    """A language model that writes attacks (docs/how-to/adversaries.md).

    template: `attack` explains everything and asks for several as JSON; `attack_short` is for a model trained to write:
    the kind of attack, a question, and what it writes is one attack.
    """

    template: Literal["attack", "attack_short"] = "attack"
    max_tokens: int = Field(default=1_024, ge=1)
    temperature: float = Field(default=1.0, ge=0)


class AdversaryConfig(Settings):
    """The search for questions on which A fails H^A's judgement or on which the reward model is fooled.

    `enabled: false` takes every attack out of training, those of the training families too: the control run.
    kinds: who proposes questions; several share the candidates of a round. corpus: a file of questions, one a line, or
    JSON lines. writer: a language model that writes them.
    """

    enabled: bool = True
    kinds: tuple[Literal["mutation", "corpus", "writer"], ...] = ("mutation",)
    corpus: Path | None = None
    writer: WriterConfig | None = None
    rounds: int = Field(default=3, ge=1)
    candidates: int = Field(default=600, ge=1)  # questions tried a round
    share: float = Field(default=0.2, ge=0, le=0.5)  # cap on attacks among the labels, and among PPO's prompts
    practice_share: float | None = Field(default=None, ge=0, le=0.5)  # the cap for PPO's prompts, if it is another one
    sweep: float = Field(default=0.0, ge=0, le=1)  # share of mutations that try the vocabulary's words in turn

    @property
    def practised(self) -> float:
        """The cap on attacks among PPO's prompts."""
        cap = self.share if self.practice_share is None else self.practice_share
        return cap if self.enabled else 0.0


class WatchConfig(Settings):
    """H^A looks at PPO while it trains: it judges the agent's answers to questions on which no reward model is trained.

    For a reward model that may be wrong about what PPO comes to. The price is an episode of H^A for each question (for
    each question and look, where judging is an episode of its own).
    """

    every: int = Field(default=0, ge=0)  # updates from one look to the next; 0: nobody looks
    questions: int = Field(default=64, ge=2)  # more make a look surer
    patience: int = Field(default=2, ge=0)  # looks in a row that show a higher reward for worse answers; 0: never stop


class PPOSettings(Settings):
    """PPO on the learned reward, with the previous agent (after the warm start, if there is one) as reference.

    An episode is one answer. With several `answers` to each prompt they are compared with each other, without a critic;
    they cost little more than one, as the prompt is shared. prompts: all alike (`even`), or more of the tasks and
    levels whose answers earn little (`hardest`). labelled: the share of prompts that are questions H^A has been asked,
    in this generation or an earlier one: its answer is then the acceptable one, and the reward model is not asked; with
    several `answers`, it is one of them.
    """

    episodes: int = Field(default=8_192, ge=0)  # of generation 0
    more_episodes: int = Field(default=0, ge=0)  # of each generation beyond those of the one before
    batch: int = Field(default=256, ge=1)  # episodes an update
    answers: int = Field(default=1, ge=1)
    prompts: Literal["even", "hardest"] = "even"
    labelled: float = Field(default=0.0, ge=0, le=1)
    minibatches: int = Field(default=1, ge=1)
    epochs: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    kl_coefficient: float = Field(default=0.02, ge=0)  # with 0, no target and no bound the KL is measured seldom
    temperature: float = Field(default=1.0, gt=0)
    value_learning_rate: float = Field(default=1e-3, gt=0)
    critic_warmup: int = Field(default=4, ge=0)  # updates in which the critic alone learns, where there is one
    answer_tokens: int = Field(default=1, ge=1)  # longest answer that is explored, its end not counted
    entropy_bonus: float = Field(default=0.0, ge=0)
    kl_target: float | None = Field(default=None, gt=0)  # nats an episode; the KL coefficient is moved towards it
    max_kl: float | None = Field(default=None, gt=0)  # the throttle: training ends before the KL passes it
    # Who answers the prompts: the policy itself, through transformers, or a vLLM engine that gets it anew each update.
    rollouts: Literal["transformers", "vllm"] = "transformers"
    rollouts_sleep: bool = False  # that engine gives its memory back while PPO trains (on a CPU there is none to give)
    part: int = Field(default=64, ge=1)  # prompts in the model at once; halved where memory does not suffice
    # Of linear layers; auto: bfloat16 on a GPU that has it.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Recompute activations: less memory and a third more time, before `part` falls.
    gradient_checkpointing: bool = False
    processes: int = Field(default=1, ge=1)  # that share each batch (accelerate's data parallelism)
    # A file of accelerate's that says how they are started, on how many machines, and who has which weights.
    accelerate: Path | None = None
    checkpoint_seconds: float = Field(default=60.0, ge=0)  # between states from which a killed training carries on
    watch: WatchConfig = WatchConfig()

    def of(self, generation: int) -> PPOSettings:
        """The settings with the episodes of one generation."""
        episodes = self.episodes + generation * self.more_episodes
        return self.model_copy(update={"episodes": episodes, "more_episodes": 0})


class DistillConfig(Settings):
    """H^A(n) -> A(n+1)."""

    adapter: AdapterConfig = AdapterConfig()
    labels: LabelsConfig = LabelsConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    reward: RewardConfig = RewardConfig()
    adversary: AdversaryConfig = AdversaryConfig()
    ppo: PPOSettings = PPOSettings()


class CollapsedConfig(Settings):
    """The collapsed scheme: one agent that is trained and defines its own reward, round by round.

    What H consults is a copy of the agent: as it was `lag` rounds ago (0: as it is now) or, with `average`, a moving
    average of its weights of which that share stays each round; with both, the average as it was `lag` rounds ago. A
    round's labels are made without any agent with probability `judge_without_agent` each. `max_kl` is the throttle.
    """

    rounds: int = Field(default=16, ge=1)  # at most, over all levels
    lag: int = Field(default=1, ge=0)
    average: float | None = Field(default=None, gt=0, lt=1)
    judge_without_agent: float = Field(default=0.1, ge=0, le=1)
    max_kl: float | None = Field(default=None, gt=0)  # nats an episode from the round before, its warm start included
    # The share of H^A's labels, in each task at the newest level, that the copy must meet before the next is begun
    # (the 2018 paper's 85%).
    agreement: float = Field(default=0.85, ge=0, le=1)


class EvaluationConfig(Settings):
    """How much is measured after each generation, on held-out questions and held-out attack families."""

    questions: int = Field(default=400, ge=1)  # a task and level
    attacks: int = Field(default=500, ge=1)  # over all held-out families


class RunConfig(Settings):
    """A run: its tasks, its generations, and how each generation is made and measured."""

    seed: int = Field(default=1, ge=0)
    scheme: Literal["sequential", "collapsed"] = "sequential"
    tasks: tuple[str, ...] = ("counting", "summing", "permutation", "boolean")
    generations: int = Field(default=3, ge=1)  # after generation 0, which is distilled from H alone
    collapsed: CollapsedConfig = CollapsedConfig()
    model: ModelConfig = ModelConfig()
    base: BaseConfig = BaseConfig()
    serving: ServingConfig = ServingConfig()
    overseer: OverseerConfig = OverseerConfig()
    limits: Limits = Limits()
    voting: Voting = Voting()
    distill: DistillConfig = DistillConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class ImitatorTraining(Settings):
    """A model made from scratch that learns to take an overseer's steps, and how it is taught (TRL's SFTTrainer).

    vocabulary: tokens, of which 256 are the bytes. max_tokens: of one action.
    """

    model: ModelConfig = ModelConfig(width=96, layers=3, heads=3, max_length=512)
    vocabulary: int = Field(default=400, ge=300)
    steps: int = Field(default=1_200, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    max_tokens: int = Field(default=128, ge=1)
