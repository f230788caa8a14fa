"""Every key a user can set: type, default, meaning and unit. Read by config/loader."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from hpa_ray import storage
from hpa_ray.channels import STAINS, channel_indices


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
MAX_SEED = 2**63 - 1


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
    name: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    """Architecture (torchvision), trained from scratch, with a stem for the number of channels."""


class LossConfig(Section):
    name: Literal["bce"] = "bce"
    """Binary cross-entropy over the 28 classes."""


class AugmentConfig(Section):
    flip: bool = True
    """Mirror an image left-right with probability 0.5, a draw per image."""
    quarter_turn: bool = True
    """Turn an image by 0, 90, 180 or 270 degrees, a draw per image; with flip: all eight symmetries of the square."""


class OptimConfig(Section):
    name: Literal["adam", "adamw"] = "adamw"
    """Optimizer."""
    lr: float = Field(1e-3, gt=0)
    """Highest learning rate, for the global batch in use."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled for adamw, L2 for adam."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    warmup_epochs: float = Field(1.0, ge=0)
    """Linear warm-up, in epochs."""


class TrainConfig(Section):
    epochs: int = Field(20, ge=1)
    """Passes over the training part."""
    batch_size: int = Field(32, ge=2)
    """Images per worker and step."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers; 0: in this process, without Ray."""
    use_gpu: bool | None = None
    """One GPU per worker; unset: if there is one."""
    prefetch_batches: int = Field(4, ge=1)
    """Batches read ahead per worker."""
    max_failures: int = Field(3, ge=0)
    """Times a run is taken up again from its last checkpoint after a worker was lost."""


class RunConfig(Section):
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run folder; unset: train-<date>-<time>."""
    storage: str | None = None
    """Folder or URI that holds the run folders; unset: runs in the home folder of hpa_ray."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of weights, order and augmentation."""
    resume: bool = False
    """Go on with the run of this name from its last checkpoint; starts it if there is none."""


class EvaluateConfig(Section):
    run: str | None = None
    """Run folder, or a model.safetensors."""
    part: Literal["train", "val", "test", "all"] = "test"
    """Which part of the data is scored."""
    output: str | None = None
    """Folder for the results; unset: the run folder."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""


class PredictConfig(Section):
    run: str | None = None
    """Run folder, or a model.safetensors."""
    output: str | None = None
    """Folder for predictions.parquet and submission.csv."""
    submission: str | None = None
    """The sample submission whose Ids and order submission.csv takes; unset: all images, sorted by Id."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    num_workers: int = Field(0, ge=0)
    """Ray Data actors, each with the model; 0: in this process, without Ray."""


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
    max_attempts: int = Field(6, ge=1)
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
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    storage: StorageConfig = StorageConfig()


RECIPES = Path(__file__).parent / "recipes"
