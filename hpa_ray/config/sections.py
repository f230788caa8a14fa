"""Every key a user can set: type, default, meaning and unit. Read by config/loader."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from hpa_ray import storage
from hpa_ray.channels import STAINS, channel_indices
from hpa_ray.config.architectures import Architecture


def _split_commas(value: Any) -> Any:
    if value is None:  # `data.extra=`
        return ()
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_stains(names: tuple[str, ...]) -> tuple[str, ...]:
    channel_indices(names)
    return names


Stains = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_stains)]
"""Names of stains, each once: a YAML list or `red,green`."""
Words = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=8, le=4096)], ...], BeforeValidator(_split_commas)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], BeforeValidator(_split_commas)]
Weights = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split_commas)]
Resource = Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]*=[0-9]{1,4}(\.[0-9]{1,3})?$")]
Resources = Annotated[tuple[Resource, ...], BeforeValidator(_split_commas)]
MAX_SEED = 2**63 - 1
UNITS_S = {"s": 1.0, "min": 60.0}
INTERVAL = re.compile(r"(\d+) ?(steps?|min|s)")


def checkpoint_interval(every: str) -> tuple[int, float]:
    """train.checkpoint_every -> steps and seconds, one of them 0; both are for `epoch`. Raises ValueError."""
    if every == "epoch":
        return 0, 0.0
    match = INTERVAL.fullmatch(every)
    if match is None or not int(match[1]):
        raise ValueError("give such as `500 steps`, `10 min`, `30 s` or `epoch`")
    seconds = int(match[1]) * UNITS_S.get(match[2], 0.0)
    return (0, seconds) if seconds else (int(match[1]), 0.0)


def _check_interval(every: str) -> str:
    checkpoint_interval(every)
    return every


Interval = Annotated[str, AfterValidator(_check_interval)]


DUPLICATE_BITS = 8


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Section):
    images: str | None = None
    """Folder or URI of `<Id>_<color>.<ext>` files."""
    labels: str | None = None
    """The csv with the columns Id and Target (class numbers separated by spaces)."""
    shards: str | None = None
    """Folder or URI that `prepare` wrote; instead of data.images and data.labels."""
    extra: Words = ()
    """More sources of images, each FOLDER (with its labels.csv in it, as `fetch` writes) or FOLDER@LABELS.csv."""
    conflict: Literal["first", "union", "drop"] = "first"
    """An image that is in several sources (same Id, or same group in data.groups): take the first source's image and
    labels, its image with the labels of all, or leave it out where the labels differ."""
    groups: str | None = None
    """The csv that `duplicates` wrote (columns Id and group); images of a group never lie in different parts."""
    split: str | None = None
    """The csv that `split` wrote (columns Id and split); unset: split by split.parts, split.seed."""
    fold: int | None = Field(None, ge=0)
    """With a data.split of folds: the fold that validates; the others train."""
    image_size: int = Field(256, ge=8, le=4096)
    """Side of the images given to the model, px; shards carry their own."""
    channels: Stains = STAINS
    """Stains given to the model, in this order, e.g. green or red,green,blue,yellow."""
    white_level: int = Field(65535, ge=255, le=65535)
    """Value of 16-bit files that becomes 255; 4095 for a 12-bit camera whose values were stored as they are."""
    sample_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training part that is used; class shares are kept."""
    on_error: Literal["fail", "quarantine"] = "fail"
    """An image that is missing or can not be read: stop, or leave it out and list it in rejected.parquet."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """With data.on_error=quarantine: share of images that may be left out before the command stops."""


class SynthConfig(Section):
    output: str | None = None
    """Folder to write the synthetic atlas to: train/<Id>_<color>.png and train.csv."""
    num_images: int | None = Field(None, ge=1)
    """Images; unset: 1,500, or the rows of synth.labels."""
    image_size: int = Field(512, ge=32, le=4096)
    """Side of the field of view in px; cells keep their size of about 120 px."""
    labels: str | None = None
    """A csv whose label sets (and, if all its rows are asked for, Ids) are used; unset: the packaged table."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """The same seed gives the same files."""
    num_workers: int | None = Field(None, ge=0)
    """Processes; unset: one per CPU; 0: this process."""


class FetchConfig(Section):
    output: str | None = None
    """Folder or URI for the images and their labels.csv, which data.extra takes."""
    labels: str | None = None
    """The csv (columns Id and Target) of the images that can be had, such as HPAv18RBGY_wodpl.csv."""
    url: str = "https://v18.proteinatlas.org/images/{first}/{rest}_{color}.jpg"
    """Address of one file; {id} is the Id, {first} and {rest} its parts before and after its first underscore."""
    classes: Words = ("rare",)
    """Class numbers such as 8,9,27 of which at least one is on an image, `rare` (8,9,10,15,17,20,24,26,27) or `all`."""
    limit: int | None = Field(None, ge=1)
    """Images at most, those with the rarest classes first; unset: all."""
    requests_per_s: float = Field(4.0, gt=0)
    """Requests per second over all workers."""
    num_workers: int | None = Field(None, ge=0)
    """Ray Data tasks at a time; unset: two; 0: threads of this process, without Ray."""
    max_attempts: int = Field(6, ge=1)
    """Times a file is asked for, with growing pauses, before its image is given up."""
    timeout_s: float = Field(30.0, gt=0)
    """Without an answer, or without a further byte of it, for this long a request has failed."""
    dry_run: bool = False
    """Say what would be downloaded, and download nothing (the same as --dry-run)."""


class CheckConfig(Section):
    output: str | None = None
    """Folder for check.html, check.json and rejected.parquet; unset: print only."""
    decode: bool = True
    """Decode every file; false: only names and labels are checked."""
    strict: bool = False
    """Exit with code 2 if there is any problem (the same as --strict)."""
    num_workers: int | None = Field(None, ge=0)
    """Threads in this process; unset: one per CPU."""


class ExploreConfig(Section):
    output: str | None = None
    """Folder for explore.html and the figures; unset: explore in the home folder of hpa_ray."""
    samples_per_class: int = Field(3, ge=1, le=20)
    """Images shown of each class."""
    num_images: int = Field(500, ge=1)
    """Images whose pixels make the intensity histograms, drawn at random."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of both draws."""


class DuplicatesConfig(Section):
    output: str | None = None
    """Folder for groups.csv, pairs.csv and duplicates.html; unset: duplicates in the home folder of hpa_ray."""
    max_distance: int = Field(DUPLICATE_BITS, ge=0, le=24)
    """Bits of 64 in which the hashes of a stain may differ; two images are near duplicates if this holds for every
    stain that shows anything in both."""
    num_pictured: int = Field(40, ge=0)
    """Pairs shown in duplicates.html."""
    num_workers: int | None = Field(None, ge=0)
    """Ray Data tasks at a time; unset: every CPU of the cluster; 0: threads of this process, without Ray."""


class SplitConfig(Section):
    output: str | None = None
    """The csv to write, with the columns Id and split (or fold); a figure of the class shares goes beside it."""
    extra: Literal["train", "all"] = "train"
    """Images of data.extra: only into the part `train` (those in a group with an image of another part are left out),
    or dealt out like the others."""
    parts: str = "0.8/0.1/0.1"
    """Train/val/test as fractions or as numbers of images such as 24000/3000/4072, or K folds such as `5 folds`."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """The same seed gives the same parts, whatever the order of the rows."""


class PrepareConfig(Section):
    output: str | None = None
    """Folder or URI for the shards."""
    sizes: Sizes = ()
    """Several sides in px such as 128,256,512, all from one pass over the files, each in a folder such as OUTPUT/256px;
    unset: data.image_size alone, in OUTPUT itself."""
    dry_run: bool = False
    """Say what would be written, how large it is and how long it takes, and write nothing (the same as --dry-run)."""
    shard_bytes: int = Field(128 * 2**20, ge=2**20)
    """Bytes of pixels after which a shard is closed and the next one opened."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of the global random order in which images are written."""
    num_workers: int | None = Field(None, ge=0)
    """Ray Data tasks at a time; unset: every CPU of the cluster; 0: threads of this process, without Ray."""


class ModelConfig(Section):
    name: Architecture = "resnet50"
    """Architecture: resnet50_enhanced (one more convolution in the identity block), mlp6 (six fully connected layers),
    any classification model of torchvision such as densenet121 or convnext_tiny, or timm/NAME (needs the extra)."""
    weights: str | None = None
    """Pretrained weights: a name of torchvision such as IMAGENET1K_V2 (downloaded; for timm the name of the tag, or
    `default`), or a file or URI (.pth, .pt, .safetensors, also the model.safetensors of a run). Unset: from scratch."""
    stem: Literal["red", "mean", "zero"] = "red"
    """First filters of the yellow stain where the pretrained ones are for red, green and blue: a copy of the red ones,
    the mean of the three, or zeros."""
    pooling: Literal["avg", "avgmax", "gem"] = "avg"
    """How a feature map becomes a vector: mean, mean and maximum side by side, or generalised mean with a learned
    exponent."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability with which a feature is dropped before the last layer."""
    normalize: Literal["dataset", "source", "image"] = "source"
    """Mean and std taken from each stain: those of the data's first source for all images, each source brought to the
    first, or each image by its own."""
    learned_gamma: bool = False
    """Learn an exponent per stain (intensity ** gamma, from 1) with the weights."""


class LossConfig(Section):
    name: Literal[
        "bce", "focal", "asl", "distribution_balanced", "soft_f1", "bce_soft_f1_alternating", "lovasz_hinge"
    ] = "bce"
    """Loss over the 28 classes; bce_soft_f1_alternating changes with every epoch."""
    weighting: Literal["none", "inverse", "sqrt_inverse", "effective_number", "gentle"] = "none"
    """Weight of a class by its n of N training images: 1/n, 1/sqrt(n), (1-b)/(1-b^n) or (1-n/N)^2, at a mean of 1."""
    weight_clip: float = Field(10.0, ge=1)
    """Largest weight of a class, in multiples of the smallest."""
    weight_on: Literal["both", "positives"] = "both"
    """Weigh a class's whole term, or only that of the images that have it (not of soft_f1 and lovasz_hinge)."""
    effective_number_beta: float = Field(0.9999, ge=0, lt=1)
    """b in effective_number."""
    focal_gamma: float = Field(2.0, ge=0)
    """Focusing exponent of focal (and of distribution_balanced)."""
    asl_gamma_negative: float = Field(4.0, ge=0)
    """Focusing exponent of asl for absent classes."""
    asl_gamma_positive: float = Field(0.0, ge=0)
    """Focusing exponent of asl for present classes."""
    asl_shift: float = Field(0.05, ge=0, lt=1)
    """Probability below which asl takes an absent class as solved."""
    logit_adjustment: float = Field(0.0, ge=0)
    """Times the log odds of a class's share that are added to its logit in training only; 0: none."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """e: targets become e/2 and 1 - e/2 (not of soft_f1 and lovasz_hinge)."""


class SamplingConfig(Section):
    name: Literal["none", "repeat_factor", "class_balanced"] = "none"
    """How often an image comes in an epoch: once; sqrt(threshold / share of its rarest class) times if that is more;
    by the inverse share of its rarest class, in an epoch of unchanged length."""
    threshold: float = Field(0.01, gt=0, le=1)
    """Share of images below which repeat_factor repeats a class."""
    clip: float = Field(10.0, ge=1)
    """Times an image comes in an epoch at most, in multiples of the one that comes least."""


Share = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(Section):
    preset: Literal["none", "light", "medium", "heavy"] = "light"
    """Amounts of all augmentations; the keys below that are set stand above it."""
    strength: float = Field(1.0, ge=0, le=3)
    """Multiplies the amounts (not flips and quarter turns); 0: none of them."""
    rare_strength: float = Field(1.0, ge=0, le=3)
    """Multiplies them once more for images of a rare class."""
    rare_only: bool = False
    """Leave images without a rare class at flips and quarter turns."""
    rare_share: Share = 0.01
    """A class is rare if a smaller share of the training images has it."""
    flip: bool | None = None
    """Mirror with probability 0.5."""
    quarter_turn: bool | None = None
    """Turn by 0, 90, 180 or 270 degrees; with flip: all eight symmetries of the square."""
    rotate_deg: float | None = Field(None, ge=0, le=180)
    """Rotate by up to so many degrees either way."""
    scale: Share | None = None
    """Zoom by a factor of 1/(1+x) to 1+x."""
    shift: Share | None = None
    """Move by up to this share of the side, along both axes."""
    shear_deg: float | None = Field(None, ge=0, le=60)
    """Shear by up to so many degrees either way."""
    crop: Share | None = None
    """Random resized crop: the share of the area that may be cut off."""
    elastic: Share | None = None
    """Elastic distortion: standard deviation of the displacements at an 8 x 8 grid, as a share of the side."""
    gain: Share | None = None
    """Brightness: multiply each stain by exp(-x) to exp(x)."""
    gamma: float | None = Field(None, ge=0, le=3)
    """Raise each stain (0 to 1) to a power of exp(-x) to exp(x)."""
    contrast: Share | None = None
    """Stretch each stain about its mean by 1-x to 1+x."""
    blur: float | None = Field(None, ge=0, le=8)
    """Gaussian blur with a standard deviation of 0 to x px, of half the images."""
    noise: Share | None = None
    """Gaussian noise with a standard deviation of 0 to x, where 1 is white."""
    stain_dropout: Share | None = None
    """Probability with which a reference stain (never green) is blacked out."""
    cutout: Share | None = None
    """Probability with which a square of up to a quarter of the area is blacked out."""
    mixup: float | None = Field(None, ge=0)
    """Alpha of MixUp: images and labels blended by Beta(alpha, alpha); 0: none."""
    cutmix: float | None = Field(None, ge=0)
    """Alpha of CutMix: a rectangle of another image, labels by area; 0: none. With mixup: one of the two, at random."""
    mix_probability: Share = 0.5
    """Share of the images that are mixed where mixup or cutmix is on."""


class OptimConfig(Section):
    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Optimizer; sgd with Nesterov momentum."""
    lr: float = Field(1e-3, gt=0)
    """Highest learning rate, for the global batch in use or as lr_scaling says."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """How the learning rate follows the global batch (images per optimizer step over all workers)."""
    lr_batch_size: int = Field(32, ge=1)
    """Global batch that lr is meant for, with lr_scaling."""
    backbone_lr: float = Field(1.0, gt=0)
    """Learning rate of all but the last layer, in multiples of lr."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled for adamw, L2 for the others; never of biases and normalisation layers."""
    clip_norm: float | None = Field(None, gt=0)
    """Scale the gradient down to this norm where it is longer; unset: never."""
    schedule: Literal["cosine", "step", "one_cycle", "constant"] = "cosine"
    """Learning rate after the warm-up; one_cycle has its own warm-up of 30 % of the run."""
    warmup_epochs: float = Field(1.0, ge=0)
    """Linear warm-up, in epochs, at most half of the run."""
    warmup_steps: int | None = Field(None, ge=0)
    """Linear warm-up, in optimizer steps; instead of warmup_epochs."""
    step_epochs: float = Field(10.0, gt=0)
    """With step: epochs after which the learning rate is multiplied by step_factor, again and again."""
    step_factor: float = Field(0.1, gt=0, lt=1)
    """With step."""


class TrainConfig(Section):
    @property
    def fewest_workers(self) -> int:
        """With which a run starts."""
        return self.min_workers or self.num_workers

    @property
    def resources_per_worker(self) -> dict[str, float] | None:
        return {name: float(amount) for name, amount in (word.split("=") for word in self.resources)} or None

    @model_validator(mode="before")
    @classmethod
    def _range_of_workers(cls, values: Any) -> Any:
        """`num_workers: 2..8` stands for min_workers 2 and num_workers 8."""
        workers = values.get("num_workers") if isinstance(values, dict) else None
        if isinstance(workers, str) and (match := re.fullmatch(r"(\d+)\.\.(\d+)", workers)):
            return {**values, "min_workers": match[1], "num_workers": match[2]}
        return values

    epochs: int = Field(20, ge=1)
    """Passes over the training part."""
    stages: Words = ()
    """Settings that change on the way, such as 4:loss.name=asl,4:optim.lr=3e-4: from the end of epoch 4 on. Of loss,
    sampling, augment, optim.lr and optim.clip_norm."""
    stop_epoch: int | None = Field(None, ge=1)
    """Stop after so many epochs of train.epochs; the run goes on when it is resumed with more."""
    batch_size: int = Field(32, ge=2)
    """Images per worker and batch."""
    accumulate: int = Field(1, ge=1)
    """Batches per optimizer step: the global batch is batch_size x workers x accumulate."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers; 0: in this process, without Ray; 2..8: as many of them as there is room for, while it runs."""
    min_workers: int | None = Field(None, ge=1)
    """With fewer than train.num_workers the run goes on down to so many; unset: it waits for all of them."""
    use_gpu: bool | None = None
    """One GPU per worker; unset: if there is one."""
    resources: Resources = ()
    """What else of a node each worker takes, by Ray's names, such as CPU=4,training=1; unset: one CPU."""
    prefetch_batches: int = Field(4, ge=1)
    """Batches read ahead per worker."""
    max_failures: int = Field(3, ge=0)
    """Times a run is taken up again from its last checkpoint after a worker was lost."""
    checkpoint_every: Interval = "10 min"
    """When the state is stored within an epoch: such as `500 steps`, `10 min`, `30 s`, or `epoch`: only at its end."""
    hang_timeout_s: float = Field(1800.0, gt=0)
    """Seconds without a batch after which a run that hangs is ended, with the stacks of all workers in its folder."""
    select: str = "macro_f1_tuned"
    """Score of the validation part by which the epoch is chosen whose model is kept: the name of one in metrics.jsonl,
    such as macro_f1, map, micro_f1_tuned or val_loss (of losses the smallest)."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better train.select; unset: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast of the model; the loss is always fp32. auto: bf16 on a GPU that has it, else fp32."""
    channels_last: bool | None = None
    """Memory layout NHWC; unset: on a GPU."""
    compile: bool = False
    """Compile the model by torch.compile (needs a C++ compiler); a minute at the start for faster steps."""
    deterministic: bool = False
    """The same seed gives the same bits on the same machine; slower on a GPU."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Validate and keep an exponential moving average of the weights with this decay per step; 0: none."""
    swa_epochs: int = Field(0, ge=0)
    """Validate and keep the mean of the weights at the ends of the last so many epochs; 0: none."""
    sync_batchnorm: bool = False
    """Batch statistics over all workers instead of each its own; on GPUs."""
    sizes: Sizes = ()
    """Progressive resizing: sides in px such as 64,96,128, each for an equal share of the epochs; the last must be that
    of the data. Validation is always at the last."""
    freeze_epochs: int = Field(0, ge=0)
    """Train only the last layer for so many epochs, then everything."""


class ThresholdsConfig(Section):
    rule: Literal["fixed", "global", "per_class", "share"] = "per_class"
    """How the thresholds of a model are found on its validation part: `fixed` is thresholds.value for all classes,
    `global` one for all with the best macro F1, `per_class` the best F1 of each, `share` predicts each class as often
    as the training part has it."""
    value: float = Field(0.5, ge=0, le=1)
    """Of rule `fixed`."""
    shrinkage: float = Field(0.0, ge=0, le=1e6)
    """Of rule `per_class`: a class with so many validation images gets a threshold midway (in logits) between its own
    and the global one, one with fewer is closer to the global one; 0: each has its own."""


class TrackConfig(Section):
    pictures: bool = True
    """Draw augmented samples, the model's layers and the curves of the run into its folder figures."""
    analysis: bool = True
    """At the end, look at the test part (or, without one, validation) as `hpa-ray analyze` does: examples with heat
    maps, confusions, suspected label errors, and a map of the images by PCA."""
    report: bool = True
    """Write report.html into the run folder when the run ends."""
    tensorboard: bool = True
    """Write event files into the folder tensorboard of the run."""
    mlflow: str | None = None
    """Tracking URI of MLflow, such as http://host:5000 (with the extra `mlflow`); for a folder, file:///..., MLflow
    wants MLFLOW_ALLOW_FILE_STORE=true."""
    wandb: str | None = None
    """Project at Weights & Biases (with the extra `wandb`); WANDB_MODE=offline keeps it on this machine."""


class RunConfig(Section):
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run folder; unset: train-<date>-<time>."""
    storage: str | None = None
    """Folder or URI that holds the run folders; unset: runs in the home folder of hpa_ray."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of weights, order and augmentation."""
    resume: bool = False
    """Go on with the run of this name from its last checkpoint; starts it if there is none."""
    exact: bool = False
    """Stopped and resumed, the run ends bit for bit as if it had not been: deterministic algorithms, and it goes on
    only with as many workers, on the same kind of machine."""


class DoctorConfig(Section):
    output: str | None = None
    """File for all that was found, as JSON; unset: print only."""
    timeout_s: float = Field(60.0, gt=0)
    """Seconds that torch, and every node of a cluster, is waited for."""


class BenchConfig(Section):
    output: str | None = None
    """Folder for bench.json; unset: print only."""
    seconds: float = Field(10.0, gt=0, le=3600)
    """Of each of the three measurements, after its warm-up."""
    warmup_steps: int = Field(5, ge=1)
    """Steps before each measurement that are not in it."""
    cpus_per_node: int = Field(64, ge=1)
    """CPUs of a node that reads, for the verdict and the plan."""
    plan_images: int | None = Field(None, ge=1)
    """Training images of the planned run; unset: those of the data."""
    plan_epochs: int | None = Field(None, ge=1)
    """Epochs of the planned run; unset: train.epochs."""
    plan_gpu_nodes: Counts = (1, 2, 4, 8, 16)
    """Numbers of GPU nodes that the plan compares."""
    gpus_per_node: int = Field(8, ge=1)
    """Workers of a GPU node in the plan, each as fast as one that was measured."""
    price_gpu_node_hour: float = Field(0.0, ge=0)
    """Of one GPU node, in any currency; 0: the plan leaves it out of the cost."""
    price_cpu_node_hour: float = Field(0.0, ge=0)
    """Of one node that reads, in the same currency."""


class TuneConfig(Section):
    space: str = "rare"
    """What is varied: loss, sampling, augment, rare (all three), lr, or a YAML file of keys and their choices or
    ranges."""
    sampler: Literal["tpe", "random", "grid", "one_factor"] = "tpe"
    """How the next trial is chosen: by Optuna's TPE from those before, at random; or all combinations; or every choice
    by itself, all else unchanged."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha: of the trials that have come as far, only the better ones go on. pbt: population based training, where
    settings change on the way: after each grace_epochs the best take the places of the worst, with changed settings."""
    trials: int = Field(24, ge=1, le=10_000)
    """How many are begun, the one with nothing changed among them; with pbt, as many in each generation."""
    metric: str = "macro_f1_rare_tuned"
    """Score of the validation part that is to be best, the name of one in metrics.jsonl; of losses the smallest."""
    floor: Share = 0.95
    """Share of the unchanged trial's macro_f1_tuned that a trial must reach to be among the best."""
    grace_epochs: int | None = Field(None, ge=1)
    """Epochs of every trial before asha may stop it, and of a generation of pbt; unset: a quarter of train.epochs."""
    reduction: float = Field(3.0, gt=1)
    """Of so many trials asha lets one go on, each time so many times further."""
    finalists: int = Field(3, ge=0)
    """Best trials that are trained again with other seeds and scored on the test part, beside the unchanged one."""
    repeats: int = Field(3, ge=1)
    """Seeds of every finalist."""
    cpus: float | None = Field(None, gt=0)
    """CPUs of a trial; unset: 1. With train.num_workers above 1, of each of its workers."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of a trial, such as 0.5 for two on one; unset: 1 where the cluster has any."""
    concurrency: int | None = Field(None, ge=1)
    """Trials side by side; unset: as many as the cluster holds."""
    hours: float | None = Field(None, gt=0)
    """No further trial is begun after so many hours of this start; unset: none but tune.trials."""
    device_hours: float | None = Field(None, gt=0)
    """Nor after so many hours of GPUs, or of CPUs where there are none, summed over trials and starts."""
    warm_start: Words = ()
    """Folders of earlier studies that tpe learns from."""
    max_failures: int = Field(2, ge=0)
    """Times a trial whose process was lost is taken up again."""


class InferenceConfig(Section):
    tta: Literal["none", "dihedral"] = "none"
    """Test-time augmentation. dihedral: every image is seen in the eight symmetries of the square."""
    tta_pool: Literal["mean", "max"] = "mean"
    """How the probabilities of the views of an image become one."""
    combine: Literal["mean", "weighted", "or"] = "mean"
    """How several models become one: mean of probabilities and of thresholds; the same with weights; or the union of
    the labels that each model gives by its own thresholds (probabilities are then the mean)."""
    weights: Weights = ()
    """With combine=weighted: a weight for every model, in their order; unset: each one's macro F1 on its validation
    part at tuned thresholds."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast of the models. auto: on a GPU as the model was trained, else fp32."""


class EvaluateConfig(Section):
    run: Words = ()
    """Run folder, model.safetensors or folder of `crossval`; several, separated by commas, are an ensemble."""
    part: Literal["train", "val", "test", "all"] = "test"
    """Which part of the data is scored."""
    output: str | None = None
    """Folder for the results; unset: the run folder."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    store_thresholds: bool = False
    """With evaluate.part=val: write the model file anew with thresholds that thresholds.rule finds on this part.
    Without it the rule's score is told (cross-fitted) and the model stays as it is."""


class AnalyzeConfig(Section):
    run: str | None = None
    """Run folder, or a model.safetensors."""
    part: Literal["train", "val", "test", "all"] = "test"
    """Which part of the data is looked at."""
    output: str | None = None
    """Folder for the results; unset: the run folder."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    max_images: int = Field(5000, ge=1)
    """Images of which map, neighbours and label errors are made; of a larger part a draw that keeps rare classes."""
    map: Literal["auto", "pca", "umap"] = "auto"
    """How the map is drawn; auto: by UMAP where it is installed (the extra `umap`), else by PCA."""
    gradcam: bool = True
    """Show by Grad-CAM where in the chosen images the model finds their class."""
    examples_per_class: int = Field(2, ge=0, le=50)
    """Of each kind: best, worst, most surprising."""
    neighbors: int = Field(10, ge=1, le=1000)
    """Nearest images that an image is compared with."""
    label_errors: int = Field(40, ge=0, le=10_000)
    """Suspected label errors that are listed and shown, the most suspect ones."""
    out_of_fold: str | None = None
    """File of predictions (as predictions_val.parquet) by models that did not train on their images, to look for label
    errors also in the training part."""


class PredictConfig(Section):
    run: Words = ()
    """Run folder, model.safetensors or folder of `crossval`; several, separated by commas, are an ensemble."""
    output: str | None = None
    """Folder for predictions.parquet and submission.csv."""
    chunk_images: int = Field(4096, ge=1)
    """Images whose predictions are stored together: after a kill the same command goes on with the chunks missing."""
    embeddings: bool = False
    """Write embeddings.parquet too: what the last layer of the model sees of every image."""
    neighbors: int = Field(0, ge=0, le=1000)
    """Nearest training images of every image, by the cosine of embeddings, written to neighbors.parquet with the labels
    that they vote for; 0: none. The run's training data must be there."""
    submission: str | None = None
    """The sample submission whose Ids and order submission.csv takes; unset: all images, sorted by Id."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    num_workers: int = Field(0, ge=0)
    """Ray Data actors, each with the model; 0: in this process, without Ray."""


class CrossvalConfig(Section):
    folds: int = Field(5, ge=2, le=100)
    """Parts that the images are dealt out to, by split.seed; each validates the model that the others train."""


class ExportConfig(Section):
    run: str | None = None
    """Run folder, or a model.safetensors."""
    output: str | None = None
    """Folder for model.safetensors, model.onnx and README.md, the model card."""
    onnx: bool | None = None
    """Write model.onnx (needs the extra `onnx`); unset: if the extra is there."""


class ReportConfig(Section):
    run: Words = ()
    """Folder of a run, a cross-validation or a study; several, such as runs/a,runs/b: they are compared with the
    first."""
    output: str | None = None
    """The HTML file to write; unset: report.html in the folder (several folders want a place)."""


class StorageConfig(Section):
    endpoint: str | None = None
    """Address of an S3 service other than Amazon's; unset: AWS_ENDPOINT_URL."""
    region: str | None = None
    """Region of the S3 service; unset: AWS_REGION or AWS_DEFAULT_REGION."""
    anonymous: bool = False
    """Ask for public files without credentials."""
    access_key: str | None = Field(None, repr=False)
    """S3 access key id; unset: AWS_ACCESS_KEY_ID, ~/.aws or the role of the machine."""
    secret_key: SecretStr | None = None
    """S3 secret key; unset: AWS_SECRET_ACCESS_KEY and so on. Never written to a run folder."""
    session_token: SecretStr | None = None
    """S3 session token; unset: AWS_SESSION_TOKEN. Never written to a run folder."""
    concurrency: int = Field(16, ge=1, le=256)
    """Requests in flight per task."""
    max_attempts: int = Field(10, ge=1)
    """Times a request is tried, with growing pauses, while the store throttles, fails or cuts answers."""
    timeout_s: float = Field(60.0, gt=0)
    """Without an answer for this long a request has failed."""

    def settings(self) -> storage.Settings:
        values: dict[str, Any] = dict(self)
        secrets = {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}
        return storage.Settings(**values | secrets)


class Config(Section):
    data: DataConfig = DataConfig()
    synth: SynthConfig = SynthConfig()
    fetch: FetchConfig = FetchConfig()
    check: CheckConfig = CheckConfig()
    explore: ExploreConfig = ExploreConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    split: SplitConfig = SplitConfig()
    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    track: TrackConfig = TrackConfig()
    run: RunConfig = RunConfig()
    tune: TuneConfig = TuneConfig()
    doctor: DoctorConfig = DoctorConfig()
    bench: BenchConfig = BenchConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    analyze: AnalyzeConfig = AnalyzeConfig()
    predict: PredictConfig = PredictConfig()
    crossval: CrossvalConfig = CrossvalConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()
    storage: StorageConfig = StorageConfig()

    @property
    def exact(self) -> bool:
        """Whether a training is to give the same bits again."""
        return self.train.deterministic or self.run.exact


RECIPES = Path(__file__).parent / "recipes"
