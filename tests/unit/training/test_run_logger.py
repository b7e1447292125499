"""The figures of a run."""

import json

import pytest

from training.run_logger import draw_curve


@pytest.mark.parametrize(("rewards", "lowest"), [((0.5, 0.7), 0), ((-0.3, 0.2), -0.3)])
def test_draw_curve_shows_negative_rewards(rewards, lowest, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("training.run_logger.pyplot.close", figures.append)
    lines = [{"step": step, "reward": reward, "loss": 2.0} for step, reward in enumerate(rewards)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    draw_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    (figure,) = figures
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "reward of sampled captions")
    assert axes.get_ylim()[0] == lowest
    assert axes.get_ylim()[1] >= max(rewards)
