"""What a study tries, in which order, and what it goes on with after a kill: without Ray, in milliseconds."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hpa_ray.cli.tune_verb import ABLATION
from hpa_ray.config import Config, load_config, stages_of
from hpa_ray.errors import InputError
from hpa_ray.tune import (
    Plan,
    StudyFolder,
    Trial,
    check_metric,
    check_population,
    combinations,
    load_space,
    space_names,
    with_overrides,
)
from hpa_ray.tune.answer import winner
from hpa_ray.tune.generations import STAGES, Member, current, offspring
from hpa_ray.tune.sampler import Tried, is_possible, suggest
from hpa_ray.tune.space import Space, as_words, parse_space, single_changes

BASE = load_config(["train.epochs=4", "tune.trials=10", "tune.finalists=2", "tune.repeats=2", "tune.metric=map"])
SPACE = parse_space(
    {
        "loss.name": ["bce", "focal", "asl"],
        "loss.focal_gamma": {"choices": [1, 2], "when": {"loss.name": "focal"}},
        "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "sampling.clip": {"low": 2, "high": 9},
    },
    BASE,
)
GOOD = {"bce": 0.2, "focal": 0.5, "asl": 0.3}


# ---- spaces


@pytest.mark.parametrize("name", space_names())
def test_packaged_spaces_hold_only_settings_that_there_are(name: str) -> None:
    for dimension in load_space(name, BASE):
        for end in dimension.ends():
            with_overrides(BASE, {dimension.key: end})


def test_all_mistakes_of_a_space_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "loss.nam": ["bce", "focal"],
                "run.seed": [1, 2],
                "loss.name": ["bce", "bce"],
                "optim.lr": {"low": 1, "high": 0.1},
                "optim.momentum": {"low": 0.5, "high": 7.5},
                "sampling.clip": 3,
                "model.dropout": {"choices": [0.1, 0.2], "when": {"loss.name": "focal"}},
                "augment.flip": [False, True],
                "augment.crop": {"choices": [0.1, 0.2], "when": {"augment.flip": {"a": 1}}},
                "augment.blur": {"choices": [0.1, 0.2], "when": {"augment.flip": [[]]}},
            }
        )
    )
    with pytest.raises(InputError) as caught:
        load_space(f"{tmp_path}/s.yaml", BASE)
    told = "\n".join(caught.value.problems)
    for key in (
        "loss.nam:",
        "run.seed:",
        "loss.name:",
        "optim.lr:",
        "optim.momentum",
        "sampling.clip",
        "model.dropout",
    ):
        assert key in told, told
    assert all(line.startswith(f"{tmp_path}/s.yaml: ") for line in caught.value.problems)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"a: [", b"\xff\xfe", b"- a", b"{}", b"!!timestamp 2001-99-99"])
def test_what_is_no_space_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"tune\.space = .*s\.yaml"):
        load_space(f"{tmp_path}/s.yaml", BASE)


def test_a_space_that_is_not_there() -> None:
    with pytest.raises(InputError, match="augment, loss, lr, rare, sampling"):
        load_space("losses", BASE)
    with pytest.raises(InputError, match="no such file"):
        load_space("/nowhere/s.yaml", BASE)


def test_combinations_leave_out_what_does_nothing() -> None:
    space = tuple(dimension for dimension in SPACE if dimension.choices)
    assert combinations(space) == [
        {"loss.name": "bce"},
        {"loss.name": "focal", "loss.focal_gamma": 1},
        {"loss.name": "focal", "loss.focal_gamma": 2},
        {"loss.name": "asl"},
    ]
    with pytest.raises(InputError, match=r"optim\.lr, sampling\.clip are ranges"):
        combinations(SPACE)


def test_single_changes_leave_all_else_as_it_is() -> None:
    space = tuple(dimension for dimension in SPACE if dimension.choices)
    assert single_changes(space, BASE) == [
        {"loss.name": "focal"},
        {"loss.name": "asl"},
        {"loss.name": "focal", "loss.focal_gamma": 1},  # 2 is what it has anyway
    ]
    with pytest.raises(InputError, match=r"one_factor: optim\.lr, sampling\.clip are ranges"):
        single_changes(SPACE, BASE)


def test_metrics_are_known_by_name() -> None:
    check_metric(BASE)
    with pytest.raises(InputError, match="did you mean 'macro_f1_rare_tuned'"):
        check_metric(load_config(["tune.metric=macro_f1_rare_tune"]))


# ---- suggestions


def score(overrides: dict[str, Any]) -> float:
    """What a simulated training reaches: known, so that the search can be judged."""
    lr = overrides.get("optim.lr", 1e-3)
    return GOOD[overrides.get("loss.name", "bce")] - 0.1 * abs(float(np.log10(lr / 3e-3)))


def run_sampler(sampler: Any, trials: int, seed: int) -> list[Tried]:
    tried: list[Tried] = []
    for number in range(trials):
        overrides = suggest(SPACE, tried, BASE, sampler=sampler, seed=seed, number=number)
        assert overrides is not None
        tried.append(Tried(overrides, score(overrides), 4, "done"))
    return tried


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_suggestions_depend_on_what_was_tried_and_on_nothing_else(sampler: Any) -> None:
    tried = run_sampler(sampler, 14, seed=3)
    assert run_sampler(sampler, 14, seed=3) == tried
    again = suggest(SPACE, tried[:11], BASE, sampler=sampler, seed=3, number=11)
    assert again == tried[11].overrides
    assert len({json.dumps(one.overrides) for one in tried}) == 14
    assert run_sampler(sampler, 2, seed=4) != tried[:2]


def test_values_lie_in_their_space() -> None:
    for one in run_sampler("tpe", 25, seed=1):
        assert ("loss.focal_gamma" in one.overrides) == (one.overrides["loss.name"] == "focal")
        assert 1e-4 <= one.overrides["optim.lr"] <= 1e-2
        assert one.overrides["sampling.clip"] in range(2, 10)
        assert isinstance(one.overrides["sampling.clip"], int)


def test_tpe_learns_what_is_good() -> None:
    late = {
        sampler: np.mean([one.value for seed in range(5) for one in run_sampler(sampler, 30, seed)[15:]])
        for sampler in ("tpe", "random")
    }
    assert late["tpe"] > late["random"] + 0.05


def test_trials_that_run_failed_or_are_of_another_space_are_no_hindrance() -> None:
    tried = [
        *run_sampler("random", 10, seed=0),
        Tried({"loss.name": "bce"}, None, 0, "running"),
        Tried({"loss.name": "focal", "loss.focal_gamma": 2}, None, 1, "failed"),
        Tried({"loss.name": "lovasz_hinge", "model.dropout": 0.5}, 0.9, 4, "done"),
        Tried({"loss.name": "asl", "optim.lr": 1e-3, "sampling.clip": 3}, 0.3, 2, "stopped"),
    ]
    assert suggest(SPACE, tried, BASE, sampler="tpe", seed=0, number=14) is not None


def test_a_space_ends() -> None:
    space = tuple(dimension for dimension in SPACE if dimension.choices)
    for sampler in ("grid", "tpe", "random"):
        tried: list[Tried] = []
        while (overrides := suggest(space, tried, BASE, sampler=sampler, seed=0, number=len(tried))) is not None:  # type: ignore[arg-type]
            tried.append(Tried(overrides, 0.1, 4, "done"))
        assert len(tried) == 4


def test_settings_that_exclude_each_other_are_not_suggested() -> None:
    space = parse_space({"loss.name": ["bce", "soft_f1"], "loss.weight_on": ["both", "positives"]}, BASE)
    found = [suggest(space, [], BASE, sampler="random", seed=0, number=number) for number in range(40)]
    assert {"loss.name": "soft_f1", "loss.weight_on": "positives"} not in found
    assert len({json.dumps(one) for one in found}) == 3
    assert not is_possible(load_config(["train.epochs=4"]), {STAGES: "2:loss.weight_on=positives,2:loss.name=soft_f1"})
    assert is_possible(load_config(["train.epochs=4"]), {STAGES: "2:loss.weight_on=positives"})


@pytest.mark.parametrize("parent", [1, 7, -1])
def test_a_trial_whose_parent_is_no_trial_before_it_is_damaged(tmp_path: Path, parent: int) -> None:
    folder = StudyFolder(str(tmp_path))
    folder.add(Trial(0, {}, 0, until=1))
    folder.add(Trial(1, {}, 0, parent=parent, begins=1, until=2))
    with pytest.raises(InputError, match=r"trials/0001/trial\.json: damaged - delete this trial's folder"):
        list(folder.trials())


# ---- plans


def line_of(trial: Trial, epoch: int) -> dict[str, Any]:
    noise = np.random.default_rng([trial.number, trial.seed]).normal(0, 0.01)
    value = score(current(trial.overrides)) * epoch / 4 + noise
    return {"epoch": epoch, "map": value, "macro_f1_tuned": 0.3, "wall_s": 10.0 * epoch}


class World:
    """Trainings that are on storage, one epoch after another, and may be killed between any two moments."""

    def __init__(self, folder: Path, config: Config = BASE, space: Space = SPACE, at_once: int = 1) -> None:
        self.folder, self.config, self.space, self.at_once = StudyFolder(str(folder)), config, space, at_once
        self.trained: Counter[tuple[int, int]] = Counter()

    def run(self, moments: int = 10**6) -> Plan:
        """Go on for so many moments, or to the end."""
        from hpa_ray.tune.search import Halving

        plan = Plan(self.config, self.space, self.folder, devices=1.0)
        halving = Halving(plan, lambda trial: None)
        running: list[Trial] = []
        while not plan.is_over:
            while len(running) < self.at_once and (trial := plan.next()) is not None:
                running.append(trial)
            for trial in list(running):
                for stop in self.epochs(trial, plan, halving):
                    moments -= 1
                    if moments <= 0:
                        return plan
                    if stop:
                        break
                running.remove(trial)
        return plan

    def epochs(self, trial: Trial, plan: Plan, halving: Any) -> Any:
        run = self.folder.run_folder(trial.number)
        lines = run.read_metrics()
        if not lines and trial.parent is not None:
            assert self.folder.run_folder(trial.parent).checkpoints()
            lines = [
                line for line in self.folder.run_folder(trial.parent).read_metrics() if line["epoch"] <= trial.begins
            ]
        for epoch in range(len(lines) + 1, (trial.until or 4) + 1):
            yield False
            lines.append(line_of(trial, epoch))
            self.trained[trial.number, epoch] += 1
            run.write_metrics(lines)
            run.write_text(f"checkpoints/epoch-{epoch:04d}.pt", "state")
            yield False
            decision = halving.on_trial_result(None, told(trial), {"line": json.dumps(lines[-1])})
            if decision == "STOP":
                yield False
                plan.end(trial.number, "stopped")
                yield True
        plan.end(trial.number, "done", test={"map": 0.1} if trial.final_of is not None else None)


POPULATION = load_config(["tune.scheduler=pbt", "tune.trials=19", "tune.grace_epochs=1"], base=BASE)
CHANGING = tuple(one for one in SPACE if one.key != "sampling.clip")


def told(trial: Trial) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(config={"number": trial.number}, trial_id="any")


def test_a_study_ends_in_finals(tmp_path: Path) -> None:
    plan = World(tmp_path).run()
    trials = plan.trials.values()
    searched = [trial for trial in trials if trial.final_of is None]
    finals = [trial for trial in trials if trial.final_of is not None]
    assert [trial.number for trial in searched] == list(range(10))
    assert searched[0].overrides == {}
    assert searched[0].status == "done"
    assert Counter(trial.status for trial in searched)["stopped"] >= 3
    best = [trial.number for trial in plan.ranked() if trial.number][:2]
    assert [(trial.final_of, trial.seed) for trial in finals] == [
        (number, seed) for seed in (1, 2) for number in (0, *best)
    ]
    assert all(trial.status == "done" and trial.test for trial in finals)
    chosen = winner(list(trials), "map", larger=True)
    assert chosen in best
    assert plan.trials[chosen].overrides["loss.name"] == "focal"
    assert len(trials) == plan.num_planned == 16


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere_a_study_is_the_same(tmp_path: Path, seed: int) -> None:
    straight, killed = World(tmp_path / "a"), World(tmp_path / "b")
    plan = straight.run()
    rng = np.random.default_rng(seed)
    for _ in range(12):
        killed.run(moments=int(rng.integers(1, 12)))
    again = killed.run()
    assert again.trials == plan.trials
    assert killed.trained == straight.trained
    assert set(killed.trained.values()) == {1}


def test_a_population_moves_to_what_is_good(tmp_path: Path) -> None:
    plan = World(tmp_path, POPULATION, CHANGING, at_once=3).run()
    trials = list(plan.trials.values())
    searched = [trial for trial in trials if trial.final_of is None]
    assert len(searched) == 16  # four in each of four generations
    generations = [searched[k : k + 4] for k in range(0, 16, 4)]
    for epoch, generation in enumerate(generations):
        assert {(trial.begins, trial.until, trial.own_epochs) for trial in generation} == {(epoch, epoch + 1, 1)}
        assert generation[0].overrides == {}
        assert {line["epoch"] for trial in generation for line in trial.lines} == set(range(1, epoch + 2))
    replaced = 0
    for before, after in pairwise(generations):
        values = [trial.lines[-1]["map"] for trial in before]
        best, worst = before[int(np.argmax(values))], before[1 + int(np.argmin(values[1:]))]
        assert [trial.parent for trial in after[:1]] == [before[0].number]
        for old, new in zip(before[1:], after[1:], strict=True):
            if old is worst:
                assert new.parent == best.number
                assert all(new.overrides[key] == best.overrides[key] for key in best.overrides if key != STAGES)
                replaced += new.overrides != best.overrides
            else:
                assert (new.parent, new.overrides) == (old.number, old.overrides)
    assert replaced
    scores = [np.mean([score(current(trial.overrides)) for trial in some]) for some in (generations[0], generations[3])]
    assert scores[1] > scores[0]
    assert sum(trial.own_s for trial in searched) == 16 * 10
    finals = [trial for trial in trials if trial.final_of is not None]
    assert {trial.final_of for trial in finals} <= {0, *(trial.number for trial in generations[-1])}
    for trial in finals:
        assert (trial.parent, trial.until, trial.epochs) == (None, None, 4)
        assert trial.overrides == plan.trials[trial.final_of or 0].overrides
        stages_of(with_overrides(POPULATION, trial.overrides))
    assert len(trials) == plan.num_planned == 22
    assert not any(plan.folder.run_folder(trial.number).checkpoints() for trial in trials)


def test_a_population_killed_anywhere_is_the_same(tmp_path: Path) -> None:
    straight, killed = (World(tmp_path / name, POPULATION, CHANGING) for name in "ab")
    plan = straight.run()
    rng = np.random.default_rng(0)
    for _ in range(12):
        killed.run(moments=int(rng.integers(1, 12)))
    assert killed.run().trials == plan.trials
    assert killed.trained == straight.trained
    assert set(killed.trained.values()) == {1}


def test_a_failed_member_is_replaced_and_the_unchanged_one_stays() -> None:
    generation = [Member(0, {}, 0.1), Member(1, {"loss.name": "asl"}, None), Member(2, {"loss.name": "bce"}, 0.3)]
    parents = [offspring(CHANGING, generation, k, POPULATION, epoch=1, seed=5) for k in range(3)]
    assert parents[0] == (0, {})
    assert parents[1][0] == 2
    assert parents[2] == (2, {"loss.name": "bce"})
    lost = [one._replace(value=None) for one in generation]
    assert [offspring(CHANGING, lost, k, POPULATION, epoch=1, seed=5)[0] for k in range(3)] == [0, 1, 2]


def test_only_what_may_change_is_in_a_population() -> None:
    with pytest.raises(InputError, match=r"pbt: model\.dropout can not change during a training"):
        check_population(parse_space({"model.dropout": [0, 0.5], "optim.lr": [1e-3, 1e-2]}, BASE))


def test_an_ablation_brings_every_single_change_to_the_end(tmp_path: Path) -> None:
    space = tuple(dimension for dimension in SPACE if dimension.choices)
    config = load_config([*ABLATION, "tune.repeats=3"], base=BASE)
    plan = World(tmp_path, config, space).run()
    searched = [trial for trial in plan.trials.values() if trial.final_of is None]
    assert [trial.overrides for trial in searched] == [{}, *single_changes(space, BASE)]
    assert {trial.status for trial in plan.trials.values()} == {"done"}
    finals = Counter(trial.final_of for trial in plan.trials.values() if trial.final_of is not None)
    assert finals == dict.fromkeys(range(4), 3)
    assert len(plan.trials) == plan.num_planned == 16


def test_side_by_side_nothing_is_tried_twice(tmp_path: Path) -> None:
    plan = World(tmp_path, at_once=4).run()
    searched = [json.dumps(trial.overrides) for trial in plan.trials.values() if trial.final_of is None]
    assert len(searched) == len(set(searched)) == 10


def test_what_is_begun_is_noted_first(tmp_path: Path) -> None:
    plan = Plan(BASE, SPACE, StudyFolder(str(tmp_path)), devices=1.0)
    first = plan.next()
    assert first is not None
    assert list(StudyFolder(str(tmp_path)).trials()) == [first]


def test_a_study_may_be_made_longer(tmp_path: Path) -> None:
    short = load_config(["tune.trials=4", "tune.finalists=0"], base=BASE)
    assert len(World(tmp_path, short).run().trials) == 4
    longer = load_config(["tune.trials=7", "tune.finalists=0"], base=BASE)
    world = World(tmp_path, longer)
    assert len(world.run().trials) == 7
    assert {number for number, _ in world.trained} == {4, 5, 6}


def test_a_budget_of_device_hours_ends_the_search_and_not_the_finals(tmp_path: Path) -> None:
    config = load_config(["tune.device_hours=0.03", "tune.scheduler=none"], base=BASE)  # 40 s a trial, on 1 device
    plan = World(tmp_path, config).run()
    assert "device_hours" in plan.exhausted
    assert len([trial for trial in plan.trials.values() if trial.final_of is None]) == 3
    assert len([trial for trial in plan.trials.values() if trial.final_of is not None]) == 6


def test_a_budget_of_hours_is_of_this_start(tmp_path: Path) -> None:
    clock = iter([0.0, 1.0, 2.0, 4000.0, 4001.0, *[5000.0] * 50])
    config = load_config(["tune.hours=1", "tune.finalists=0", "tune.scheduler=none"], base=BASE)
    plan = Plan(config, SPACE, StudyFolder(str(tmp_path)), devices=1.0, now=lambda: next(clock))
    while (trial := plan.next()) is not None:
        plan.heard(trial.number, line_of(trial, 4))
        plan.end(trial.number, "done")
    assert plan.is_over
    assert plan.exhausted == "tune.hours = 1 are over"
    assert 0 < len(plan.trials) < 4


def test_who_loses_too_much_overall_is_no_finalist(tmp_path: Path) -> None:
    plan = Plan(BASE, SPACE, StudyFolder(str(tmp_path)), devices=1.0)
    for overall in (0.4, 0.37, 0.39, 0.5):
        trial = plan.next()
        assert trial is not None
        plan.heard(trial.number, {"epoch": 4, "map": 0.5 - trial.number / 10, "macro_f1_tuned": overall, "wall_s": 1.0})
        plan.end(trial.number, "done")
    assert [trial.number for trial in plan.ranked()] == [0, 2, 3]  # 0.95 of 0.4 is 0.38


def test_failed_trials_do_not_end_a_study(tmp_path: Path) -> None:
    config = load_config(["tune.trials=4"], base=BASE)
    plan = Plan(config, SPACE, StudyFolder(str(tmp_path)), devices=1.0)
    while (trial := plan.next()) is not None:
        if trial.number % 2:
            plan.end(trial.number, "failed", reason="out of memory")
        else:
            plan.heard(trial.number, line_of(trial, 4))
            plan.end(trial.number, "done", test=None if trial.final_of is None else {})
    assert plan.is_over
    again = Plan(config, SPACE, StudyFolder(str(tmp_path)), devices=1.0)
    assert again.is_over
    assert again.trials[1].reason == "out of memory"
    assert {trial.final_of for trial in again.trials.values()} == {None, 0, 2}


def test_losses_are_best_where_they_are_small(tmp_path: Path) -> None:
    plan = Plan(load_config(["tune.metric=val_loss"], base=BASE), SPACE, StudyFolder(str(tmp_path)), devices=1.0)
    for loss in (0.5, 0.3, 0.4):
        trial = plan.next()
        assert trial is not None
        plan.heard(trial.number, {"epoch": 4, "val_loss": loss, "macro_f1_tuned": 0.4, "wall_s": 1.0})
        plan.end(trial.number, "done")
    assert [trial.number for trial in plan.ranked()] == [1, 2, 0]


@pytest.mark.parametrize("name", ["trial.json", "outcome.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1}'])
def test_a_damaged_trial_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    World(tmp_path, load_config(["tune.trials=2", "tune.finalists=0"], base=BASE)).run()
    (tmp_path / "trials" / "0001" / name).write_bytes(content)
    with pytest.raises(InputError, match="0001"):
        list(StudyFolder(str(tmp_path)).trials())


def test_overrides_in_words() -> None:
    assert as_words({"optim.lr": 0.00123456, "augment.flip": True, "loss.name": "asl"}) == (
        "optim.lr=0.001235 augment.flip=true loss.name=asl"
    )
    assert as_words({}) == "nothing changed"
