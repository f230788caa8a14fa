"""Settings that are right one by one and wrong together. Before: sections. After: cli, which tells them at once."""

from hpa_ray.config.sections import Config


def contradictions(config: Config) -> list[str]:
    """Settings of a training that exclude each other, or do nothing without or beside another; a line each."""
    model, loss, augment, train = config.model, config.loss, config.augment, config.train
    over_batch = loss.name in ("soft_f1", "lovasz_hinge")
    found = (
        (
            bool(train.ema_decay and train.swa_epochs),
            "train.ema_decay and train.swa_epochs are both set - choose one average of the weights",
        ),
        (
            train.min_workers is not None and train.min_workers > train.num_workers,
            f"train.min_workers = {train.min_workers}, but train.num_workers = {train.num_workers}",
        ),
        (
            bool(train.min_workers) and config.run.exact,
            "run.exact=true needs a fixed number of workers - leave train.min_workers out",
        ),
        (
            train.swa_epochs > train.epochs,
            f"train.swa_epochs = {train.swa_epochs}, but train.epochs = {train.epochs}",
        ),
        (
            bool(train.swa_epochs and train.patience),
            "train.swa_epochs and train.patience are both set - a run that may stop early has no last epochs",
        ),
        (
            len(train.sizes) > train.epochs,
            f"train.sizes has {len(train.sizes)} sides, but train.epochs = {train.epochs}",
        ),
        (
            train.freeze_epochs > 0 and model.weights is None,
            "train.freeze_epochs needs model.weights - on features drawn at random the last layer learns nothing",
        ),
        (
            over_batch and loss.label_smoothing > 0,
            f"loss.label_smoothing does nothing with loss.name = {loss.name} - leave it out",
        ),
        (
            over_batch and loss.weight_on == "positives",
            f"loss.weight_on = positives does nothing with loss.name = {loss.name} - leave it out",
        ),
        (
            config.optim.schedule == "one_cycle" and config.optim.warmup_steps is not None,
            "optim.warmup_steps does nothing with optim.schedule = one_cycle, which has its own warm-up - leave it out",
        ),
        (
            bool(augment.stain_dropout) and config.data.channels == ("green",),
            "augment.stain_dropout does nothing with data.channels = green, which is never left out",
        ),
        (
            bool(config.data.shards and config.data.labels),
            "data.shards and data.labels are both set - shards hold their labels: prepare again to change them",
        ),
    )
    return [text for is_so, text in found if is_so]
