"""The table of runs: a row per decoder, phase and beam size."""

import json

from tests.helpers.commands import run_module_in_process
from training.results_table import format_table

SCORES = {"Bleu_1": 0.6, "Bleu_2": 0.45, "Bleu_3": 0.3, "Bleu_4": 0.2, "METEOR": 0.21, "ROUGE_L": 0.47}


def result(decoder, phase, beam, seed, cider, minutes=10.0):
    return {
        "decoder": decoder, "model": f"{decoder}-flickr8k", "phase": phase, "beam": beam, "seed": seed,
        "parameters": 8_840_000, "minutes": minutes,
        "measures": {"bad_endings": {"model": 0.005}}, "scores": SCORES | {"CIDEr": cider},
    }  # fmt: skip


def test_format_table_rows_are_sorted_and_seeds_share_a_row():
    text = format_table([
        result("nic", "self_critical", 5, 1, 0.5),
        result("nic", "cross_entropy", 5, 1, 0.44),
        result("nic", "cross_entropy", 1, 2, 0.41, minutes=12.0),
        result("nic", "cross_entropy", 1, 1, 0.40),
        result("nic", "cross_entropy", 1, 3, 0.45, minutes=11.0),
    ])  # fmt: skip
    head, _, *rows = text.splitlines()
    assert head.startswith("| decoder | parameters | training | minutes | beam | B-1 |")
    scores = "60.0 | 45.0 | 30.0 | 20.0 | 21.0 | 47.0"
    assert rows == [
        # CIDEr 40, 41 and 45: the mean 42, deviations -2, -1 and 3, so the variance is 14 / 2
        f"| `nic` | 8.8 M | cross-entropy | 10, 12, 11 | 1 | {scores} | 42.0 ± 2.6 | 0.5 % | 1, 2, 3 |",
        f"| `nic` | 8.8 M | cross-entropy | 10 | 5 | {scores} | 44.0 | 0.5 % | 1 |",
        f"| `nic` | 8.8 M | then self-critical | 10 | 5 | {scores} | 50.0 | 0.5 % | 1 |",
    ]
    assert {row.count("|") for row in rows} == {head.count("|")}


def test_results_table_prints_saved_results(tmp_path):
    for seed, cider in ((1, 0.40), (2, 0.44)):
        (tmp_path / f"nic-{seed}.json").write_text(json.dumps([result("nic", "cross_entropy", 5, seed, cider)]))
    code, stdout, errors = run_module_in_process("training.results_table", "nowhere", *sorted(tmp_path.glob("*.json")))
    assert code == 0, errors
    assert "| 42.0 ± 2.8 | 0.5 % | 1, 2 |" in stdout  # deviations -2 and 2: the variance is 8
