"""The figures of a run, and the line that training prints for an epoch."""

import json

import pytest

from training.run_logger import draw_curve, format_epoch

SCORES = {"epoch": 3, "selection": 1.0152, "CIDEr": 0.6512, "Bleu_4": 0.2541}


def write_metrics(run, *lines) -> None:
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def drawn_figure(run, monkeypatch):
    figures = []
    monkeypatch.setattr("training.run_logger.pyplot.close", figures.append)
    draw_curve(run / "metrics.jsonl", run / "curve.png")
    return figures[0]


@pytest.mark.parametrize(("rewards", "lowest"), [((0.5, 0.7), 0), ((-0.3, 0.2), -0.3)])
def test_draw_curve_shows_negative_rewards(rewards, lowest, tmp_path, monkeypatch):
    write_metrics(tmp_path, *({"step": step, "reward": reward, "loss": 2.0} for step, reward in enumerate(rewards)))
    figure = drawn_figure(tmp_path, monkeypatch)
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "reward of sampled captions")
    assert axes.get_ylim()[0] == lowest
    assert axes.get_ylim()[1] >= max(rewards)


def test_draw_curve_shows_likeness_beside_that_of_people(tmp_path, monkeypatch):
    measures = {"likeness": {"model": 0.6, "people": 0.9}}
    epochs = (SCORES | {"step": 1, "measures": measures}, SCORES | {"step": 2, "measures": {}})
    write_metrics(tmp_path, {"step": 1, "loss": 2.0}, *epochs)
    validation = drawn_figure(tmp_path, monkeypatch).axes[1]
    drawn = {line.get_label(): list(line.get_ydata()) for line in validation.get_lines()}
    assert drawn == {
        "selection": [1.0152] * 2, "CIDEr": [0.6512] * 2, "BLEU-4": [0.2541] * 2,
        "likeness to people": [0.6], "likeness of people": [0.9, 0.9],
    }  # fmt: skip


def test_format_epoch_has_measures_beside_people():
    measures = {
        "words_used": {"model": 215, "people": 1556.8},
        "likeness": {"model": 0.6768, "people": 0.9561},
        "recall_objects": {"model": 0.4, "people": 0.5},
    }
    overused = [{"run": "a group of", "model": 0.165, "people": 0.0248}, {"run": "b", "model": 0.1, "people": 0.0}]
    assert format_epoch(SCORES | {"measures": measures, "overused": overused}) == (
        "epoch 3: selection 1.015, CIDEr 0.651, BLEU-4 0.254, words used 215 (1557), likeness to people 0.677 (0.956), "
        '"a group of" 16.5 % (2.5 %)'
    )


def test_format_epoch_without_people_has_scores():
    values = SCORES | {"measures": {"words_used": {"model": 215, "people": None}}, "overused": []}
    assert format_epoch(values) == "epoch 3: selection 1.015, CIDEr 0.651, BLEU-4 0.254, words used 215 (–)"
