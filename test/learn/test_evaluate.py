"""The harness that evaluates policies: what it counts, and that it counts the same every time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluated_policies import ExpertPolicy, Fidget

from pi_policy_node.__main__ import main
from pi_policy_node.learn.evaluate import EvaluationError, Setting, Trial, evaluate, plan, trial_task
from pi_policy_node.learn.evaluate_play import Condition, Outcome, Player
from pi_policy_node.learn.evaluate_table import paired, summary, table, wilson
from pi_policy_node.learn.evaluate_watch import CAUSES
from pi_policy_node.policy.base import PolicyError, Result
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.tasks import KEPT_SEEDS, look

ROBOT = load_robot("pi_mobile")
FIDGET = Setting("evaluated_policies:Fidget", width=32)


@pytest.fixture(scope="module")
def player():
    made = Player(ROBOT, ExpertPolicy(ROBOT), width=0)
    made.policy.sim, = made.sims
    yield made
    made.close()


def play(player: Player, condition: Condition, seed: int = 1, *, acts_on=None, seconds: float | None = None) -> Outcome:
    """One episode of the expert; acts_on: another task than the one that is judged."""
    task = trial_task(condition.family, seed, condition.split)
    player.policy.task = acts_on or task
    player.policy.told.clear()
    return player.play(replace(task, seconds=seconds or task.seconds), condition)


# ------------------------------------------------------------------------------------------------------- episodes

@pytest.mark.parametrize("mode, delay", [("rtc", 0.0), ("rtc", 0.1), ("sync", 0.0), ("ensemble", 0.0)])
def test_the_expert_as_a_policy_succeeds_in_every_mode(player, mode, delay):
    player.policy.played = 5 if mode == "sync" else player.policy.horizon
    outcome = play(player, Condition("put", mode=mode, replan=5, delay=delay))
    player.policy.played = player.policy.horizon
    assert outcome.success and outcome.met == 1.0 and outcome.cause == ""
    assert outcome.right_first and outcome.lifted == (trial_task("put", 1).target,)
    if mode == "sync":
        assert outcome.held > outcome.rows / 3  # it stands still between its answers
    else:
        assert outcome.held == round(delay / ROBOT.dt)  # only before the first one
    assert outcome.refused == 0
    told = set(player.policy.told[1:])
    assert told == ({0} if mode != "rtc" else {6} if delay else {2})  # of the delay, at least one; one of transport


def test_the_commanders_rules_end_an_episode(player):
    outcome = play(player, Condition("drawer", replan=5))
    assert outcome.success and outcome.ended == "succeeded" and outcome.reason == "done"
    assert outcome.subtasks[0] in ("open the drawer", "close the drawer")
    assert outcome.right_first is None


def test_mishaps_happen_at_the_same_moments_and_are_told(player):
    one, two = (play(player, Condition("put", replan=5, disturb=True)) for _ in range(2))
    assert one.events and one.events == two.events and one.seconds == two.seconds
    assert one.success
    assert play(player, Condition("put", replan=5)).events == ()


# --------------------------------------------------------------------------------------------------------- causes

def test_lifting_something_else_first_is_told(player):
    task = trial_task("put", 1)
    other = next(name for name, item in zip(task.scene.names(), task.scene.items)
                 if name != task.target and item.kind in ("block", "cylinder", "ball", "prism", "brick"))
    goal = replace(task.goals[0], thing=other)
    outcome = play(player, Condition("put", replan=5), acts_on=replace(task, goals=(goal,)), seconds=10.0)
    assert not outcome.success and outcome.right_first is False
    assert outcome.lifted[0] == other and outcome.cause == "wrong object"


@pytest.mark.parametrize("family, cause", [
    ("put", "not tried"), ("drawer", "drawer not gripped"), ("drive", "not there"), ("clear", "not tried")])
def test_what_does_nothing_is_told_so(family, cause):
    task = replace(trial_task(family, 1), seconds=2.0)
    idle = Player(ROBOT, Fidget(ROBOT, reach=0.0), width=32)
    outcome = idle.play(task, Condition(family))
    assert not outcome.success and outcome.cause == cause and outcome.ended == "timed_out"


def test_a_done_that_is_not_true_is_counted(player):
    outcome = play(player, Condition("put"), acts_on=replace(trial_task("put", 1), goals=()), seconds=8.0)
    assert outcome.ended == "succeeded" and not outcome.success
    row, = summary([_played(outcome)])
    assert row["said_done_wrongly"] == 1 and row["causes"] == {"said done": 1}


def test_what_is_lost_on_the_way_was_dropped(player):
    """It slips out of the hand, and from then on nothing is done."""
    class GivesUp(ExpertPolicy):
        def infer(self, obs, **how):
            result = super().infer(obs, **how)
            if self.sim.state()[ROBOT.is_gripper].max() > 0.9 and self._had:
                return Result(np.tile(ROBOT.home, (self.horizon, 1)))
            self._had |= bool(look(self.sim).held())
            return result

        def reset(self):
            super().reset()
            self._had = False

    for seed in range(8):  # until one whose mishap is a slip
        player_of_it = Player(ROBOT, GivesUp(ROBOT), width=0)
        player_of_it.policy.sim, = player_of_it.sims
        outcome = play(player_of_it, Condition("put", replan=5, disturb=True), seed, seconds=12.0)
        if outcome.events and outcome.events[-1][1] == "slip" and not outcome.success:
            assert outcome.cause in ("dropped", "fell")
            return
    pytest.fail("nothing slipped in eight episodes")


def test_words_that_a_policy_does_not_know_are_refused(player):
    class Ignorant(ExpertPolicy):
        def unknown(self, text):
            return tuple(word for word in text.split() if word in ("the", "a"))

    deaf = Player(ROBOT, Ignorant(ROBOT), width=0)
    deaf.policy.sim, = deaf.sims
    outcome = play(deaf, Condition("put"))
    assert (outcome.cause, outcome.ended, outcome.rows) == ("refused", "refused", 0)


def test_a_policy_that_fails_is_given_up_as_the_commander_would():
    class Broken(Fidget):
        def infer(self, obs, **_):
            raise PolicyError("no such luck")

    outcome = Player(ROBOT, Broken(ROBOT), width=32).play(trial_task("put", 1), Condition("put"))
    assert (outcome.cause, outcome.ended) == ("no answer", "failed") and "no such luck" in outcome.reason
    assert 4.0 < outcome.seconds < 6.0


def test_lost_pictures_leave_the_robot_without_answers():
    class Counts(Fidget):
        def warm_up(self):
            super().warm_up()
            self.seen = []

        def infer(self, obs, **how):
            self.seen.append(set(obs.images))
            return super().infer(obs, **how)

    policy = Counts(ROBOT, reach=0.01)
    policy.warm_up()
    blind = Player(ROBOT, policy, width=32)
    task = replace(trial_task("put", 1), seconds=2.0)
    assert blind.play(task, Condition("put", dropout=1.0)).cause == "no answer" and not policy.seen
    some = blind.play(task, Condition("put", dropout=0.5))
    assert 0 < some.asked and all(seen == {"front_camera"} for seen in policy.seen)  # it is required
    whole = blind.play(task, Condition("put"))
    assert whole.asked > some.asked and whole.held == 0


# --------------------------------------------------------------------------------------------------------- figures

@pytest.mark.parametrize("good, of, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962),
                                                 (194, 200, 0.9361, 0.9862), (0, 0, 0.0, 1.0)])
def test_wilson(good, of, low, high):
    assert wilson(good, of) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("counts, expected", [
    ((36, 2, 12, 0), (0.2, 0.0569, 0.3404)),  # Newcombe 1998, table II
    ((60, 0, 0, 0), (0.0, -0.0602, 0.0602)),
])
def test_the_interval_of_a_difference(counts, expected):
    pairs = [pair for pair, count in zip(((1, 1), (1, 0), (0, 1), (0, 0)), counts) for _ in range(count)]
    one, other = ([bool(x) for x in side] for side in zip(*pairs))
    assert paired(one, other) == pytest.approx(expected, abs=1e-4)
    assert paired(other, one)[1:] == pytest.approx([-x for x in expected[:0:-1]], abs=1e-4)


def _outcome(**changes) -> Outcome:
    plain = dict(seed=1, instruction="", success=True, met=1.0, ended="succeeded", reason="", cause="",
                 right_first=True, lifted=(), subtasks=(), events=(), seconds=10.0, rows=500, limited=0, held=0, refused=0, asked=50, thinking=0.02,
                 wall=1.0)
    return Outcome(**plain | changes)


def _played(outcome: Outcome, **condition):
    from pi_policy_node.learn.evaluate import Played

    return Played(Trial(Condition("put", **condition), outcome.seed), outcome)


def test_the_table_says_what_differs_and_why_it_failed():
    why = ("dropped", True), ("dropped", True), ("wrong object", False), ("not tried", None)
    failures = [_outcome(success=False, met=0.0, cause=cause, right_first=first) for cause, first in why]
    rows = summary([_played(_outcome(), delay=0.1)] * 6 + [_played(o, delay=0.1) for o in failures]
                   + [_played(_outcome(), mode="sync", delay=0.1)])
    assert [row["episodes"] for row in rows] == [10, 1]
    assert rows[0]["success"] == 0.6 and rows[0]["right_first"] == pytest.approx(8 / 9)
    text = table(rows)
    assert "60.0 %" in text and "31.3–83.2" in text and "88.9 % of 9" in text and "100 ms" in text and "sync" in text
    assert "2 dropped, 1 wrong object, 1 not tried" in text and "replan" not in text
    assert all(cause in CAUSES for row in rows for cause in row["causes"])


def test_seeds_are_never_those_of_demonstrations():
    assert trial_task("put", 3).seed == KEPT_SEEDS + 3
    assert trial_task("put", 3, "holdout_pairs").split == "holdout_pairs"
    with pytest.raises(SystemExit):
        main(["sim", "record", "--seed", "x", "--out", "/nowhere"])
    assert main(["sim", "record", "--seed", str(KEPT_SEEDS), "--out", "/nowhere"]) == 2


# ------------------------------------------------------------------------------------------------------------ runs

def short(episodes: int = 4) -> list[Trial]:
    return plan([Condition("drawer", jitter=0.1), Condition("put")], episodes, 0)


def same(a: Outcome, b: Outcome) -> bool:
    return replace(a, wall=0, thinking=0) == replace(b, wall=0, thinking=0)


@pytest.fixture()
def quick(monkeypatch):
    """Tasks of one second."""
    from pi_policy_node.learn import evaluate as module

    whole = module.trial_task
    monkeypatch.setattr(module, "trial_task", lambda *which: replace(whole(*which), seconds=1.0))


def test_outcomes_do_not_depend_on_what_was_played_before(quick, tmp_path):
    trials = short(2)
    forwards = evaluate(FIDGET, trials, workers=1, report=lambda *_: None)
    backwards = evaluate(FIDGET, trials[::-1], workers=1, report=lambda *_: None)[::-1]
    assert [p.trial for p in forwards] == trials
    assert all(same(a.outcome, b.outcome) for a, b in zip(forwards, backwards))


def test_an_interrupted_evaluation_goes_on(quick, tmp_path):
    log = tmp_path / "log"
    whole = evaluate(FIDGET, short(2), workers=1, log=log, report=lambda *_: None)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:40])  # killed while it wrote
    fresh = []
    again = evaluate(FIDGET, short(2), workers=1, log=log, report=lambda played, left: fresh.append(left))
    assert fresh == [1, 0] and all(same(a.outcome, b.outcome) for a, b in zip(whole, again))
    assert evaluate(FIDGET, short(2), workers=1, log=log, report=lambda *_: pytest.fail("all is there")) == again
    with pytest.raises(EvaluationError, match="another setting"):
        evaluate(replace(FIDGET, width=48), short(2), workers=1, log=log, report=lambda *_: None)
    log.write_text("something else\n")
    with pytest.raises(EvaluationError, match="no log"):
        evaluate(FIDGET, short(2), workers=1, log=log, report=lambda *_: None)


def test_processes_come_to_the_same_and_their_errors_are_told():
    trials = plan([Condition("drawer")], 2, 0)
    one = evaluate(FIDGET, trials, workers=1, report=lambda *_: None)
    two = evaluate(FIDGET, trials, workers=2, report=lambda *_: None)
    assert all(same(a.outcome, b.outcome) for a, b in zip(one, two))
    with pytest.raises(PolicyError, match="no policy 'nobody'"):
        evaluate(Setting("nobody"), trials, workers=2, report=lambda *_: None)


def test_the_front_door_writes_figures_and_films(quick, tmp_path, capsys):
    figures, films = tmp_path / "figures.json", tmp_path / "films"
    arguments = ["eval", "--policy", FIDGET.policy, "--option", "reach=0.1", "--tasks", "put", "--episodes", "2",
                 "--delay-ms", "0,100", "--size", "32", "--workers", "1", "--json", str(figures), "--videos",
                 str(films)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "0.0 %" in said and "100 ms" in said and "rows per second" in said
    stored = json.loads(figures.read_text())
    assert stored["setting"]["options"] == {"reach": 0.1} and len(stored["episodes"]) == 4
    assert [row["delay"] for row in stored["table"]] == [0.0, 0.1]
    assert sorted(f.name for f in films.iterdir()) == [
        f"put_train_{k}_rtc_{d}ms.mp4" for k in (0, 1) for d in (0, 100)]
    assert all(f.stat().st_size > 10_000 for f in films.iterdir())
    assert list(tmp_path.iterdir()) in ([figures, films], [films, figures])  # no log is left


def test_side_by_side_comes_to_the_same_in_any_number_of_processes(quick, tmp_path):
    """And each episode to what it is alone, but for the policy's own chance."""
    trials, log = plan([Condition("drawer", delay=0.1), Condition("put")], 5, 0), tmp_path / "log"
    seats = replace(FIDGET, seats=3)
    one = evaluate(seats, trials, workers=1, log=log, report=lambda *_: None)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:9]))  # one of two groups, and a part
    two = evaluate(seats, trials, workers=1, log=log, report=lambda *_: None)
    assert [p.trial for p in one] == trials and all(same(a.outcome, b.outcome) for a, b in zip(one, two))
    still = replace(seats, options={"reach": 0.0})
    together = evaluate(still, trials, workers=1, report=lambda *_: None)
    alone = evaluate(replace(still, seats=1), trials, workers=1, report=lambda *_: None)
    assert all(same(a.outcome, b.outcome) for a, b in zip(together, alone))
    with pytest.raises(PolicyError, match="no infer_batch"):
        Player(ROBOT, ExpertPolicy(ROBOT), width=0, seats=2)


@pytest.mark.parametrize("arguments, words", [
    (["--tasks", "juggle"], "no task family is called 'juggle'"), (["--mode", "slow"], "there are rtc, sync, ensemble"),
    (["--delay-ms", "fast"], "numbers with commas"), (["--episodes", "0"], "--episodes must be between 1"),
    (["--tasks", "drive", "--holdout", "pairs"], "no held-out pairs"), (["--policy", "nobody"], "no policy 'nobody'"),
    (["--option", "weights"], "NAME=VALUE"), (["--ros", "--disturb"], "leave out"), (["--policy", FIDGET.policy, "--option", "speed=3"], "speed")])
def test_wrong_arguments_are_told(arguments, words, capsys):
    assert main(["eval", "--workers", "1", *arguments]) == 2
    assert words in capsys.readouterr().err
