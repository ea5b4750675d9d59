"""The autoscaler's arithmetic, worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.autoscaling.__main__ import chart_hpa, main
from deploy.autoscaling.autoscaler import (
    Autoscaler,
    AutoscalerError,
    Policy,
    Rules,
    milli,
    read_autoscaler,
)
from deploy.autoscaling.recording import RecordingError, Sample, read_recording
from deploy.autoscaling.replay import Decision, replay
from deploy.demo.models import ROOT

WAITING, KV = "cadenza_num_requests_waiting", "cadenza_kv_cache_usage_ratio"
HALF_OR_ONE = (Policy("Percent", 50, 60), Policy("Pods", 1, 60))
ONE = (Policy("Pods", 1, 60),)


def autoscaler(*, up: Rules | None = None, calm_seconds: int = 60) -> Autoscaler:
    """The chart's, with a shorter window down: 2 to 8 pods, 4 waiting requests each, 0.8 of the KV cache."""
    return Autoscaler(
        min_replicas=2,
        max_replicas=8,
        targets={WAITING: 4000, KV: 800},
        up=up or Rules(HALF_OR_ONE, 0, "Max"),
        down=Rules(ONE, calm_seconds, "Max"),
    )


def every_15_seconds(*waiting: float) -> list[Sample]:
    """Samples of so many waiting requests in all."""
    return [Sample(15.0 * index, {WAITING: round(1000 * one)}) for index, one in enumerate(waiting)]


def pods(decisions: list[Decision]) -> list[int]:
    return [decision.after for decision in decisions]


def test_desired_is_the_ceiling_of_total_over_target() -> None:
    """17 waiting at 2 pods: 8.5 each, ceil(2 * 8.5 / 4) = 5; half more than 2, or one more, is 3."""
    (decision,) = replay(autoscaler(), every_15_seconds(17), replicas=2)
    assert decision == Decision(at=0, before=2, wanted=5, stabilized=5, after=3)


@pytest.mark.parametrize(
    ("waiting", "wanted"),
    [
        (8.8, 2),
        (8.9, 3),
        (7.2, 2),
    ],  # 4.4 of 4 is 10 % more: within the tolerance; 4.45 is not; 3.6 is 10 % less
)
def test_nothing_changes_within_a_tenth_of_the_target(waiting: float, wanted: int) -> None:
    (decision,) = replay(autoscaler(), every_15_seconds(waiting), replicas=2)
    assert decision.wanted == wanted


def test_the_metric_that_wants_most_counts() -> None:
    """2.7 KV caches in use: 0.9 each of 3, ceil(3 * 0.9 / 0.8) = 4; 4 requests wait: 1 would do."""
    (decision,) = replay(autoscaler(), [Sample(0, {WAITING: 4000, KV: 2700})], replicas=3)
    assert decision.wanted == 4


def test_up_goes_by_half_within_any_minute() -> None:
    """From 4: 6 at once, half more; no more until the change is a minute old; then 9, and 8 is the most."""
    decisions = replay(autoscaler(), every_15_seconds(*[100] * 6), replicas=4)
    assert pods(decisions) == [6, 6, 6, 6, 8, 8]


def test_down_goes_by_one_a_minute_after_a_calm() -> None:
    """A wish for 6 at 0 s holds while it is less than 60 s old; from then on one pod a minute goes."""
    decisions = replay(autoscaler(), every_15_seconds(24, *[0] * 10), replicas=6)
    assert pods(decisions) == [6, 6, 6, 6, 5, 5, 5, 5, 4, 4, 4]


def test_never_fewer_than_the_minimum() -> None:
    decisions = replay(autoscaler(calm_seconds=0), every_15_seconds(*[0] * 12), replicas=3)
    assert pods(decisions)[-1] == 2


def test_replicas_outside_of_the_limits_are_brought_inside_at_once() -> None:
    assert pods(replay(autoscaler(), every_15_seconds(0), replicas=20)) == [8]
    assert pods(replay(autoscaler(), every_15_seconds(0), replicas=1)) == [2]


def test_a_window_for_up_waits_for_the_lowest_wish_in_it() -> None:
    """Wishes 5, 5, 5 within 30 s of a wish for 2: up when that one is 30 s old."""
    calm = autoscaler(up=Rules(HALF_OR_ONE, 30, "Max"))
    assert pods(replay(calm, every_15_seconds(8, 20, 20, 20), replicas=2)) == [2, 2, 3, 3]


def test_a_disabled_direction_stays() -> None:
    still = autoscaler(up=Rules(HALF_OR_ONE, 0, "Disabled"))
    assert pods(replay(still, every_15_seconds(100, 100), replicas=2)) == [2, 2]


def test_the_smaller_change_is_taken_where_min_is_selected() -> None:
    careful = autoscaler(up=Rules(HALF_OR_ONE, 0, "Min"))
    assert pods(replay(careful, every_15_seconds(100), replicas=4)) == [5]


def test_a_sample_holds_until_the_next_turn() -> None:
    samples = [Sample(0, {WAITING: 0}), Sample(14, {WAITING: 40000}), Sample(31, {WAITING: 0})]
    assert [one.wanted for one in replay(autoscaler(), samples, replicas=2)] == [0, 10, 10]


def test_the_charts_autoscaler_is_read() -> None:
    found = read_autoscaler(yaml.safe_load(chart_hpa(["autoscaling.maxReplicas=5"])))
    assert (found.min_replicas, found.max_replicas) == (2, 5)
    assert found.targets == {WAITING: 4000, KV: 800}
    assert found.up == Rules(HALF_OR_ONE, 0, "Max")
    assert found.down == Rules(ONE, 300, "Max")


@pytest.mark.parametrize(
    ("quantity", "thousandths"), [("800m", 800), ("4", 4000), (0.25, 250), ("2k", 2000000)]
)
def test_quantities_are_read_as_kubernetes_writes_them(quantity: str | float, thousandths: int) -> None:
    assert milli(quantity) == thousandths


@pytest.mark.parametrize(
    "hpa", [{"kind": "Deployment"}, {"kind": "HorizontalPodAutoscaler", "spec": {"metrics": []}}]
)
def test_what_is_no_autoscaler_is_refused(hpa: dict[str, Any]) -> None:
    with pytest.raises(AutoscalerError, match="needed"):
        read_autoscaler(hpa)


def range_answer(*series: tuple[str, str, str, list[tuple[float, str]]]) -> str:
    """What Prometheus answers, of (metric, pod, model, values)."""
    result = [
        {"metric": {"__name__": name, "pod": pod, "model": model}, "values": values}
        for name, pod, model, values in series
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def test_a_range_query_is_summed_over_pods_and_joined_within_each(tmp_path: Path) -> None:
    """Of a pod's models the waiting requests add up, and the fullest KV cache counts."""
    path = tmp_path / "recording.json"
    path.write_text(
        range_answer(
            (WAITING, "a", "m", [(100, "3"), (115, "5")]),
            (WAITING, "a", "n", [(100, "1")]),
            (WAITING, "b", "m", [(115, "2")]),
            (KV, "a", "m", [(100, "0.25")]),
            (KV, "a", "n", [(100, "0.5")]),
            (KV, "b", "m", [(100, "0.125")]),
        )
    )
    assert read_recording(path) == [Sample(0, {WAITING: 4000, KV: 625}), Sample(15, {WAITING: 7000})]


def test_a_report_of_the_load_tester_is_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    samples = [
        {"at": 0.5, "waiting": 2.0, "kv_cache_usage": 0.125},
        {"at": 1.5, "waiting": 0.0, "kv_cache_usage": 0.0},
    ]
    path.write_text(json.dumps({"runs": [{"server": {"samples": samples}}]}))
    assert read_recording(path) == [Sample(0.5, {WAITING: 2000, KV: 125}), Sample(1.5, {WAITING: 0, KV: 0})]


@pytest.mark.parametrize("text", ["{", "{}", '{"runs": []}', range_answer()])
def test_a_file_without_samples_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recording.json"
    path.write_text(text)
    with pytest.raises(RecordingError, match=str(path)):
        read_recording(path)


def test_the_command_prints_when_it_would_have_scaled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recording.json"
    path.write_text(range_answer((WAITING, "a", "m", [(0, "0"), (15, "17"), (75, "17"), (90, "17")])))
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-3:]] == [
        ["0", "0", "2", "2"],  # at, wanted, stable, pods
        ["15", "5", "5", "3"],
        ["75", "5", "5", "5"],
    ]


def test_the_table_of_the_docs_is_the_replay_of_that_recording() -> None:
    samples = read_recording(Path(__file__).with_name("chat_on_one_server.json"))
    decisions = replay(read_autoscaler(yaml.safe_load(chart_hpa())), samples, replicas=2)
    waiting = {sample.at: sample.totals[WAITING] // 1000 for sample in samples}
    shown = [one for one in decisions if one.at in {15, 30, 60, 75, 90, 120, 150, 180, 240}]
    docs = (ROOT / "docs" / "operate.md").read_text()
    for name, row in (
        ("waiting requests", [waiting[one.at] for one in shown]),
        ("pods wanted, at 4 each", [one.wanted for one in shown]),
        ("pods there would have been", [one.after for one in shown]),
    ):
        assert f"| {name} | {' | '.join(map(str, row))} |" in docs
