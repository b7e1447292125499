"""Diverse beam search: hand-worked steps, and a search of one image at a time in plain Python."""

import math
from collections import Counter

import pytest
import torch

from handler.generation import GenerationConfig, generate
from handler.generation.beam_groups import BeamGroup, DiversityPenalties, beam_groups, images_searched_together
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.table_decoder import END, A, B, C, TableDecoder, probability_table, random_tables, vocabulary_of

LN2 = math.log(2)


def groups_of(size: int, count: int, penalty: float = 0.5, **options: float) -> GenerationConfig:
    return GenerationConfig(beam_size=size * count, num_beam_groups=count, diversity_penalty=penalty, **options)


def test_beam_groups_are_ordered_by_their_position():
    configs = [groups_of(1, 2), GenerationConfig(), groups_of(2, 3)]
    assert beam_groups(configs) == [
        *(BeamGroup(0, 0), BeamGroup(1, 0), BeamGroup(2, 0)),
        *(BeamGroup(0, 1), BeamGroup(2, 1)),
        BeamGroup(2, 2),
    ]


def test_images_with_groups_of_one_size_are_searched_together():
    configs = [groups_of(2, 2), GenerationConfig(), groups_of(1, 4), GenerationConfig(beam_size=2), groups_of(2, 5)]
    assert images_searched_together(configs) == [[0, 4], [1, 3], [2]]


def test_penalties_count_the_tokens_of_earlier_groups_of_the_image():
    """Three groups: of image 1 (strength 0.5), of image 0 (strength 2), and again of image 1."""
    penalties = DiversityPenalties(torch.tensor([1, 0, 1]), torch.tensor([[0.5], [2.0], [0.5]]), 2, 4)
    tokens = torch.tensor([[3, 3], [1, 2]])
    penalties.add(slice(0, 2), tokens, torch.tensor([[True, True], [True, False]]))  # token 2 is not chosen
    logprobs = torch.zeros(1, 2, 4)
    assert penalties.penalize(slice(2, 3), logprobs).tolist() == [[[0, 0, 0, -1.0]] * 2]  # twice 0.5
    assert penalties.penalize(slice(1, 2), logprobs).tolist() == [[[0, -2.0, 0, 0]] * 2]
    assert penalties.penalize(slice(0, 1), logprobs).tolist() == [[[0, 0, 0, -1.0]] * 2]


# One word of a 0.5, b 0.3, c 0.2, chosen by groups of one beam:
#   penalty ln 2, which halves a probability: a; b (a 0.25, b 0.3, c 0.2); a (a 0.25, b 0.15, c 0.2);
#     c (a 0.125, b 0.15, c 0.2); b (a 0.125, b 0.15, c 0.1)
#   penalty 2 ln 2, which quarters it: a; b (a 0.125); c (a 0.125, b 0.075, c 0.2); a (a 0.125, b 0.075, c 0.05)
ONE_WORD = {1: {A: 0.5, B: 0.3, C: 0.2}, A: {END: 1.0}, B: {END: 1.0}, C: {END: 1.0}}


@pytest.mark.parametrize(
    ("penalty", "num_groups", "num_captions", "tokens"),
    [
        (0.0, 3, 3, [A, A, A]),
        (LN2, 2, 2, [A, B]),
        (LN2, 3, 3, [A, B, A]),  # the duplicate comes last
        (LN2, 4, 4, [A, B, C, A]),
        (LN2, 5, 5, [A, B, C, A, B]),
        (2 * LN2, 3, 3, [A, B, C]),
        (2 * LN2, 4, 3, [A, B, C]),
    ],
)
def test_groups_of_one_beam_follow_the_hand_worked_penalties(penalty, num_groups, num_captions, tokens):
    config = groups_of(1, num_groups, penalty, num_captions=num_captions, max_length=3)
    [hypotheses] = generate(TableDecoder(7), probability_table(ONE_WORD, 4), [config], vocabulary_of(3))
    assert [h.token_ids for h in hypotheses] == [[token] for token in tokens]
    probabilities = [{A: 0.5, B: 0.3, C: 0.2}[token] for token in tokens]
    assert [math.exp(sum(h.logprobs)) for h in hypotheses] == pytest.approx(probabilities, rel=1e-5)  # no penalty


def test_penalties_of_a_hypothesis_add_up():
    """Two groups of two beams and two words; penalty ln 2, which halves a probability.

    First word: a 0.5, b 0.3, c 0.2. The first group keeps a and b. The second ranks a 0.25, c 0.2, b 0.15: a and c.
    Second word of the first group: b c 0.3 * 0.5 = 0.15, a a 0.5 * 0.29 = 0.145, a b 0.5 * 0.21 = 0.105. It keeps b c
    and a a. The second ranks c b 0.2 * 0.3 = 0.06, a b 0.25 * 0.21 = 0.0525, a a 0.25 * 0.29 / 2 = 0.03625 and
    c c 0.2 * 0.2 / 2 = 0.02. It keeps c b and a b. Without the penalty of the first word it would keep a b and a a.
    """
    rows = {1: {A: 0.5, B: 0.3, C: 0.2}, A: {A: 0.29, B: 0.21}, B: {C: 0.5}, C: {B: 0.3, C: 0.2}}
    table = probability_table(rows | {word: rows[word] | {END: 0.5} for word in (A, B, C)}, 3)
    config = groups_of(2, 2, LN2, num_captions=4, length_penalty=0.0, min_length=2, max_length=2)
    [hypotheses] = generate(TableDecoder(7), table, [config], vocabulary_of(3))
    assert [h.token_ids for h in hypotheses] == [[B, C], [A, B], [A, A], [C, B]]  # the best of each group first
    expected = [0.15, 0.105, 0.145, 0.06]
    assert [math.exp(sum(h.logprobs)) for h in hypotheses] == pytest.approx([p / 2 for p in expected], rel=1e-5)


def test_a_group_that_is_done_repels_no_more():
    """The first group ends after a; the second group, b at first, then follows the likeliest path, over a.

    a 0.6 → <end> 0.9 (a c 0.1); b 0.4 → a 0.9: with penalty 5 the second group begins with b. At step 2 the first
    group has ended, so nothing repels a: b a <end> = 0.4 * 0.9 * 0.9.
    """
    rows = {1: {A: 0.6, B: 0.4}, A: {END: 0.9, C: 0.1}, B: {A: 0.9, C: 0.1}, C: {END: 1.0}}
    config = groups_of(1, 2, 5.0, num_captions=2, length_penalty=0.0)
    [[first, second]] = generate(TableDecoder(7), probability_table(rows, 21), [config], vocabulary_of(3))
    assert (first.token_ids, second.token_ids) == ([A], [B, A])
    assert math.exp(sum(second.logprobs)) == pytest.approx(0.4 * 0.9 * 0.9, rel=1e-5)


def test_best_of_all_groups_comes_first():
    """Greedy search takes the garden path a c (0.6 * 0.36); the second group finds b c (0.4 * 0.9), which is better."""
    rows = {1: {A: 0.6, B: 0.4}, A: {A: 0.33, C: 0.36, END: 0.31}, B: {C: 0.9, END: 0.1}, C: {END: 1.0}}
    config = groups_of(1, 2, 1.0, num_captions=2, length_penalty=0.0, max_length=5)
    [hypotheses] = generate(TableDecoder(7), probability_table(rows, 6), [config], vocabulary_of(3))
    assert [h.token_ids for h in hypotheses] == [[B, C], [A, C]]


def test_sampled_captions_without_groups_are_ordered_by_score_alone():
    config = GenerationConfig(temperature=1.0, num_captions=10, seed=0, max_length=3)
    [hypotheses] = generate(TableDecoder(7), probability_table(ONE_WORD, 4), [config], vocabulary_of(3))
    scores = [h.score for h in hypotheses]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) < len(scores)  # some are equal, and none of these moves to the end


def reference_search(
    table: torch.Tensor, vocabulary: Vocabulary, config: GenerationConfig
) -> list[list[tuple[float, list[int]]]]:
    """Return the finished captions of each group with their scores, best first: Algorithm 1 of the paper, in lists."""
    logprobs = table.unflatten(1, (len(vocabulary), len(vocabulary))).log_softmax(-1).tolist()
    size = config.beam_size // config.num_beam_groups
    live = [[(0.0, 0.0, [vocabulary.bos_id])] for _ in range(config.num_beam_groups)]
    finished = [[] for _ in live]
    for step in range(config.max_length + 1):
        chosen = Counter()
        words = range(len(SPECIAL), len(vocabulary)) if step < config.max_length else []
        tokens = [*words, vocabulary.eos_id] if step >= config.min_length else words
        for group, beams in enumerate(live):
            if len(finished[group]) >= size:
                continue
            candidates = []
            for total, penalty, sequence in beams:
                for token in tokens:
                    score = total + logprobs[step][sequence[-1]][token]
                    penalties = penalty + config.diversity_penalty * chosen[token]
                    candidates.append((score - penalties, score, penalties, [*sequence, token]))
            candidates.sort(reverse=True)
            ending = [(score, s) for _, score, _, s in candidates[:size] if s[-1] == vocabulary.eos_id]
            finished[group] += [(score / (step + 1) ** config.length_penalty, s[1:-1]) for score, s in ending]
            finished[group] = sorted(finished[group], reverse=True)[:size]
            others = [candidate[1:] for candidate in candidates if candidate[-1][-1] != vocabulary.eos_id]
            live[group] = others[:size]
            if len(finished[group]) < size:
                chosen.update(sequence[-1] for _, _, sequence in live[group])
    return finished


def ranked_captions(groups: list[list[tuple[float, list[int]]]], num_captions: int) -> list[list[int]]:
    """Return the best caption of each group, ranked by their scores, then the second best; duplicates last."""
    ranked = []
    for rank in range(max(map(len, groups))):
        ranked += [sequence for _, sequence in sorted((g[rank] for g in groups if len(g) > rank), reverse=True)]
    first = [sequence for i, sequence in enumerate(ranked) if sequence not in ranked[:i]]
    return (first + [sequence for i, sequence in enumerate(ranked) if sequence in ranked[:i]])[:num_captions]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(beam_size=4, num_captions=4, max_length=6),
        groups_of(1, 5, 0.5, num_captions=5, max_length=6),
        groups_of(2, 3, 1.0, num_captions=6, max_length=6),
        groups_of(3, 2, 0.3, num_captions=4, max_length=5, min_length=3),
        groups_of(2, 4, 3.0, num_captions=5, max_length=6, length_penalty=0.0),
        groups_of(4, 2, 0.0, num_captions=8, max_length=5, length_penalty=1.5),
    ],
)
def test_generate_equals_the_reference_search(config):
    vocabulary = vocabulary_of(6)
    tables = random_tables(24, 7, vocabulary, 3)
    generated = generate(TableDecoder(len(vocabulary)), tables, [config] * 24, vocabulary)
    for table, hypotheses in zip(tables, generated, strict=True):
        expected = ranked_captions(reference_search(table, vocabulary, config), config.num_captions)
        assert [h.token_ids for h in hypotheses] == expected


def test_groups_without_a_penalty_find_what_one_group_finds():
    vocabulary = vocabulary_of(3)
    tables = random_tables(6, 5, vocabulary, 2)
    one = GenerationConfig(beam_size=300, num_captions=5, max_length=4)
    both = groups_of(300, 2, 0.0, num_captions=5, max_length=4)
    decoder = TableDecoder(len(vocabulary))
    expected = generate(decoder, tables, [one] * 6, vocabulary)
    assert [[h.token_ids for h in found] for found in generate(decoder, tables, [both] * 6, vocabulary)] == [
        [h.token_ids for h in found] for found in expected
    ]


def test_groups_find_more_distinct_words_than_one_beam():
    vocabulary = vocabulary_of(20)
    tables = random_tables(16, 9, vocabulary, 6)
    decoder = TableDecoder(len(vocabulary))

    def distinct_words(config: GenerationConfig) -> int:
        generated = generate(decoder, tables, [config] * 16, vocabulary)
        return sum(len({token for h in hypotheses for token in h.token_ids}) for hypotheses in generated)

    options = {"num_captions": 5, "max_length": 8, "min_length": 8}
    assert distinct_words(groups_of(1, 5, 5.0, **options)) > 1.3 * distinct_words(GenerationConfig(**options))
