"""Search against brute force on a tiny vocabulary, against hand-worked cases, and batched against one by one."""

import itertools
import math

import pytest
import torch

from handler.generation import GenerationConfig, generate
from handler.modeling import DECODERS, Decoder, SoftAttentionConfig, StepFeatures, TransformerConfig, build_decoder
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.bundles import small_config

A, B, C = 4, 5, 6
END = 2


class TableDecoder(Decoder):
    """A decoder that reads its logits from a table: for each image, step and last token.

    Its grid (B, steps, V * V) is the table itself, so that each image has a model of its own.
    """

    def init_state(self, grid):
        size = self.vocabulary_size
        state = {"step": torch.zeros(len(grid), 1, dtype=torch.long)}
        return {"table": grid.unflatten(2, (size, size))}, state

    def step_features(self, tokens, state, memory):
        images = torch.arange(len(tokens)).unsqueeze(1)
        logits = memory["table"][images, state["step"], tokens]
        return StepFeatures(logits, {"step": state["step"] + 1}, memory)

    def lm_head(self, features):
        return features


def vocabulary_of(words: int) -> Vocabulary:
    return Vocabulary((*SPECIAL, *(chr(ord("a") + i) for i in range(words))))


def random_tables(images: int, steps: int, vocabulary: Vocabulary, seed: int) -> torch.Tensor:
    size = len(vocabulary)
    return 2 * torch.randn(images, steps, size * size, generator=torch.Generator().manual_seed(seed))


def brute_force(
    table: torch.Tensor, vocabulary: Vocabulary, options: GenerationConfig
) -> list[tuple[float, list[int]]]:
    """All captions with their ranks, the best first: every sequence of words scored by adding up the table."""
    logprobs = table.unflatten(1, (len(vocabulary), len(vocabulary))).log_softmax(-1)
    ranked = []
    words = range(len(SPECIAL), len(vocabulary))
    for length in range(options.min_length, options.max_length + 1):
        for sequence in itertools.product(words, repeat=length):
            last, total = vocabulary.bos_id, 0.0
            for step, token in enumerate((*sequence, vocabulary.eos_id)):
                total += logprobs[step, last, token].item()
                last = token
            ranked.append((total / (length + 1) ** options.length_penalty, list(sequence)))
    return sorted(ranked, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_what_brute_force_finds(seed, length_penalty):
    vocabulary = vocabulary_of(3)
    tables = random_tables(4, 5, vocabulary, seed)
    options = GenerationConfig(beam_size=400, length_penalty=length_penalty, max_length=4, num_captions=5)
    found = generate(TableDecoder(len(vocabulary)), tables, [options] * 4, vocabulary)
    for table, hypotheses in zip(tables, found, strict=True):
        expected = brute_force(table, vocabulary, options)[:5]
        assert [h.token_ids for h in hypotheses] == [sequence for _, sequence in expected]
        for hypothesis, (rank, _) in zip(hypotheses, expected, strict=True):
            total = sum(hypothesis.logprobs)
            assert total / len(hypothesis.logprobs) ** length_penalty == pytest.approx(rank, abs=1e-4)


def probability_table(rows: dict[int, dict[int, float]], steps: int) -> torch.Tensor:
    """A table from probabilities of the next token by the last one, the same at each step."""
    table = torch.full((7, 7), -1e4)
    for last, nexts in rows.items():
        for token, probability in nexts.items():
            table[last, token] = math.log(probability)
    return table.flatten().expand(1, steps, -1)


# a 0.6 looks best at first, but goes on with 0.35 and 0.35; b 0.4 goes on with 0.9.
#   greedy: a c <end>  = 0.6 * 0.36 * 1.0 = 0.216;   beam 2: b c <end> = 0.4 * 0.9 * 1.0 = 0.36
GARDEN_PATH = {
    1: {A: 0.6, B: 0.4},
    A: {A: 0.33, C: 0.36, END: 0.31},
    B: {C: 0.9, END: 0.1},
    C: {END: 1.0},
}


@pytest.mark.parametrize(("beam_size", "words", "probability"), [(1, [A, C], 0.216), (2, [B, C], 0.36)])
def test_hand_worked_example(beam_size, words, probability):
    vocabulary = vocabulary_of(3)
    options = GenerationConfig(beam_size=beam_size, length_penalty=0.0, max_length=5)
    [[best]] = generate(TableDecoder(7), probability_table(GARDEN_PATH, 6), [options], vocabulary)
    assert best.token_ids == words
    assert math.exp(sum(best.logprobs)) == pytest.approx(probability, rel=1e-5)
    assert best.score == pytest.approx(math.log(probability) / 3, rel=1e-5)


def test_length_penalty_decides_between_short_and_long():
    # a <end> = 0.5 * 0.3 = 0.15;  a b <end> = 0.5 * 0.7 * 0.4 = 0.14
    # by the mean: ln 0.15 / 2 = -0.949, ln 0.14 / 3 = -0.655
    rows = {1: {A: 0.5, C: 0.5}, A: {END: 0.3, B: 0.7}, B: {END: 0.4, C: 0.6}, C: {C: 0.99, END: 0.01}}
    vocabulary, table = vocabulary_of(3), probability_table(rows, 3)
    for length_penalty, words in ((0.0, [A]), (1.0, [A, B])):
        options = GenerationConfig(beam_size=20, length_penalty=length_penalty, max_length=2)
        [[best]] = generate(TableDecoder(7), table, [options], vocabulary)
        assert best.token_ids == words


def test_a_caption_comes_also_where_no_beam_ever_ends():
    table = probability_table({1: {A: 1.0}, A: {A: 0.5, B: 0.5}, B: {A: 0.5, B: 0.5}}, 8)
    [[best]] = generate(TableDecoder(7), table, [GenerationConfig(beam_size=3, max_length=7)], vocabulary_of(3))
    assert len(best.token_ids) == 7


def test_min_length_holds_back_the_end_and_max_length_forces_it():
    vocabulary = vocabulary_of(3)
    tables = random_tables(8, 7, vocabulary, 3)
    tables.unflatten(2, (7, 7))[..., END] += 6  # a model that wants to end at once
    for low, high in ((1, 6), (3, 6), (6, 6), (1, 2)):
        options = GenerationConfig(beam_size=3, min_length=low, max_length=high)
        for [best] in generate(TableDecoder(7), tables, [options] * 8, vocabulary):
            assert low <= len(best.token_ids) <= high


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram(size, beam_size):
    vocabulary = vocabulary_of(3)
    tables = random_tables(16, 13, vocabulary, 7)
    tables.unflatten(2, (7, 7))[..., END] -= 9  # a model that goes on and on

    def repeats(ids: list[int]) -> bool:
        runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(set(runs)) < len(runs)

    free = GenerationConfig(beam_size=beam_size, max_length=12)
    bound = GenerationConfig(beam_size=beam_size, max_length=12, no_repeat_ngram=size)
    found = generate(TableDecoder(7), tables, [free] * 16, vocabulary)
    assert any(repeats(best.token_ids) for [best] in found)
    for [best] in generate(TableDecoder(7), tables, [bound] * 16, vocabulary):
        assert not repeats(best.token_ids)
        assert len(best.token_ids) >= 1


def test_min_length_gives_way_where_no_word_is_left():
    options = GenerationConfig(beam_size=2, min_length=9, max_length=12, no_repeat_ngram=1)
    vocabulary = vocabulary_of(3)
    [[best]] = generate(TableDecoder(7), random_tables(1, 13, vocabulary, 0), [options], vocabulary)
    assert sorted(best.token_ids) == [A, B, C]


def test_special_tokens_are_never_said():
    vocabulary = vocabulary_of(3)
    tables = random_tables(8, 7, vocabulary, 1)
    tables.unflatten(2, (7, 7))[..., [0, 1, 3]] += 20
    for found in generate(TableDecoder(7), tables, [GenerationConfig(num_captions=3, max_length=6)] * 8, vocabulary):
        for hypothesis in found:
            assert set(hypothesis.token_ids) <= {A, B, C}


MIXED = [
    GenerationConfig(beam_size=1),
    GenerationConfig(beam_size=5, length_penalty=1.0, num_captions=4),
    GenerationConfig(beam_size=3, max_length=4),
    GenerationConfig(beam_size=2, min_length=6, no_repeat_ngram=2),
    GenerationConfig(beam_size=7, length_penalty=0.0, num_captions=2, attention=True),
    GenerationConfig(beam_size=3, no_repeat_ngram=3, max_length=9),
    GenerationConfig(temperature=1.0, seed=1),
    GenerationConfig(temperature=0.7, top_p=0.8, seed=2, num_captions=6, max_length=7),
    GenerationConfig(temperature=1.5, seed=3, num_captions=3, no_repeat_ngram=2, min_length=3, attention=True),
]


@pytest.mark.parametrize("name", DECODERS)
def test_a_batch_of_mixed_options_equals_one_by_one(name):
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, len(vocabulary), 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)  # decisive, as a trained model is
    options = MIXED * 4
    grid = torch.randn(len(options), 9, 12)
    together = generate(decoder, grid, options, vocabulary)
    for place, option in enumerate(options):
        [alone] = generate(decoder, grid[place : place + 1], [option], vocabulary)
        assert [h.token_ids for h in together[place]] == [h.token_ids for h in alone]
        assert len(alone) == option.num_captions
        for left, right in zip(together[place], alone, strict=True):
            assert left.logprobs == pytest.approx(right.logprobs, abs=1e-3)
            if option.attention and name != "nic":
                assert left.attention.shape == (len(left.token_ids), 9)
                assert left.attention.sum(1).tolist() == pytest.approx([1.0] * len(left.token_ids), abs=1e-5)
            else:
                assert left.attention is None


@pytest.mark.parametrize("patience", [3, 4])
def test_how_often_it_looks_who_is_done_changes_nothing(monkeypatch, patience):
    """A device that is waited for is asked seldom: hypotheses of images that are done go on for some steps."""
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = TransformerConfig(embed_dim=16, ffn_dim=24, num_heads=4, num_layers=2)
    decoder = build_decoder(config, len(vocabulary), 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    options = MIXED * 4
    grid = torch.randn(len(options), 9, 12)
    at_every_step = generate(decoder, grid, options, vocabulary)
    monkeypatch.setattr("handler.generation.beam_search.DONE_CHECK_INTERVAL", {"cpu": patience})
    seldom = generate(decoder, grid, options, vocabulary)
    assert [[h.token_ids for h in some] for some in seldom] == [[h.token_ids for h in some] for some in at_every_step]
    for left, right in zip(*map(itertools.chain.from_iterable, (seldom, at_every_step)), strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_logprobs_and_attention_are_those_of_teacher_forcing(name):
    """The history a beam carries belongs to the caption returned: fed again word by word, it comes out the same."""
    torch.manual_seed(1)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(20))))
    config = small_config(name, embed_dim=16, hidden_dim=16, ffn_dim=16, attention_dim=8)
    decoder = build_decoder(config, 24, 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    grid = torch.randn(5, 9, 12)
    options = GenerationConfig(beam_size=4, num_captions=4, max_length=8, attention=True)
    for image, hypotheses in enumerate(generate(decoder, grid, [options] * 5, vocabulary)):
        assert len(hypotheses) == 4
        for hypothesis in hypotheses:
            inputs = torch.tensor([[[vocabulary.bos_id, *hypothesis.token_ids]]])
            logits, attention, _ = decoder(grid[image : image + 1], inputs)
            targets = torch.tensor([*hypothesis.token_ids, vocabulary.eos_id])
            expected = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
            assert hypothesis.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            if attention is not None:
                torch.testing.assert_close(hypothesis.attention, attention[0, 0, :-1], atol=1e-5, rtol=1e-4)


def test_greedy_is_the_argmax_of_each_step():
    vocabulary = vocabulary_of(3)
    tables = random_tables(10, 13, vocabulary, 5)
    found = generate(TableDecoder(7), tables, [GenerationConfig(beam_size=1, max_length=12)] * 10, vocabulary)
    for table, [best] in zip(tables.unflatten(2, (7, 7)), found, strict=True):
        last, words = vocabulary.bos_id, []
        while len(words) < 12:
            allowed = [END, A, B, C] if words else [A, B, C]
            last = max(allowed, key=lambda token: table[len(words), last, token].item())
            if last == END:
                break
            words.append(last)
        assert best.token_ids == words


# One word and the end: a 0.5, b 0.3, c 0.2; raised to 1/0.5 and normalised: 25/38, 9/38, 4/38.
ONE_WORD = probability_table({1: {A: 0.5, B: 0.3, C: 0.2}, A: {END: 1.0}, B: {END: 1.0}, C: {END: 1.0}}, 3)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"temperature": 1.0}, {A: 0.5, B: 0.3, C: 0.2}),
        ({"temperature": 0.5}, {A: 25 / 38, B: 9 / 38, C: 4 / 38}),
        ({"temperature": 1.0, "top_p": 0.6}, {A: 0.5 / 0.8, B: 0.3 / 0.8}),  # a alone holds too little
        ({"temperature": 1.0, "top_p": 0.5}, {A: 1.0}),
        ({"temperature": 0.01}, {A: 1.0}),
    ],
)
def test_draws_follow_the_probabilities(options, shares):
    count = 4000
    images = [GenerationConfig(seed=seed, **options) for seed in range(count)]
    found = generate(TableDecoder(7), ONE_WORD.expand(count, -1, -1), images, vocabulary_of(3))
    drawn = [best.token_ids for [best] in found]
    assert {len(ids) for ids in drawn} == {1}
    for token in (A, B, C):
        share, expected = drawn.count([token]) / count, shares.get(token, 0.0)
        # Five standard deviations of a binomial; where nothing is to be drawn, nothing is.
        assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / count)
    for [best] in found:  # the model's own probability is told, not the tempered one
        assert math.exp(best.logprobs[0]) == pytest.approx({A: 0.5, B: 0.3, C: 0.2}[best.token_ids[0]], rel=1e-5)


def test_a_seed_decides_the_draws_and_several_captions_are_drawn_apart():
    vocabulary = vocabulary_of(3)
    tables = random_tables(1, 13, vocabulary, 2)

    def draw(**options):
        [found] = generate(
            TableDecoder(7), tables, [GenerationConfig(temperature=1.0, max_length=12, **options)], vocabulary
        )
        return [h.token_ids for h in found]

    assert draw(seed=7, num_captions=8) == draw(seed=7, num_captions=8)
    assert draw(seed=7, num_captions=8) != draw(seed=8, num_captions=8)
    assert len({tuple(ids) for ids in draw(seed=7, num_captions=8)}) > 1
    # How many are asked for does not change those that come first.
    assert {tuple(ids) for ids in draw(seed=7, num_captions=3)} <= {tuple(ids) for ids in draw(seed=7, num_captions=8)}
    assert len({str(draw(num_captions=8)) for _ in range(5)}) > 1  # without a seed ever new ones


class Prefixes(list):
    """Prefixes that a callback received, without repetitions."""

    def __call__(self, token_ids: list[int]) -> None:
        if not self or self[-1] != token_ids:
            self.append(token_ids)


def test_on_tokens_of_a_beam_waits_until_all_hypotheses_agree():
    """On the garden path a beam of two is certain of b only once a c <end> and b c <end> have been compared."""
    vocabulary = vocabulary_of(3)
    for beam_size, expected in ((1, [[A], [A, C]]), (2, [[], [B, C]])):
        prefixes = Prefixes()
        config = GenerationConfig(beam_size=beam_size, length_penalty=0.0, max_length=5)
        generate(TableDecoder(7), probability_table(GARDEN_PATH, 6), [config], vocabulary, {0: prefixes})
        assert prefixes == expected


def test_on_tokens_reports_a_shared_prefix_before_the_end():
    """Both hypotheses begin with a, so it is certain before it is known how they continue."""
    rows = {1: {A: 0.9, B: 0.1}, A: {B: 0.5, C: 0.49, END: 0.01}, B: {C: 0.6, END: 0.4}, C: {END: 0.7, B: 0.3}}
    prefixes = Prefixes()
    config = GenerationConfig(beam_size=2, length_penalty=0.0, max_length=5)
    [[best]] = generate(TableDecoder(7), probability_table(rows, 6), [config], vocabulary_of(3), {0: prefixes})
    assert len(best.token_ids) > 1
    assert [A] in prefixes
    assert prefixes[-1] == best.token_ids


def test_the_attention_that_is_kept_keeps_no_batch():
    torch.manual_seed(0)
    decoder = build_decoder(SoftAttentionConfig(embed_dim=8, hidden_dim=8, attention_dim=8), 7, 5).eval()
    options = GenerationConfig(attention=True, max_length=6)
    for [best] in generate(decoder, torch.randn(4, 9, 5), [options] * 4, vocabulary_of(3)):
        assert best.attention.untyped_storage().nbytes() == best.attention.nbytes


@pytest.mark.parametrize("config", MIXED)
def test_on_tokens_reports_growing_prefixes_of_the_best_caption(config):
    vocabulary = vocabulary_of(3)
    count = 12
    tables = random_tables(count, 22, vocabulary, 9)
    prefixes = {image: Prefixes() for image in range(0, count, 2)}
    generated = generate(TableDecoder(7), tables, [config] * count, vocabulary, prefixes)
    assert generated == generate(TableDecoder(7), tables, [config] * count, vocabulary)
    for image, reported in prefixes.items():
        best = generated[image][0].token_ids
        assert reported[-1] == best
        lengths = [len(prefix) for prefix in reported]
        assert lengths == sorted(set(lengths))
        assert all(prefix == best[: len(prefix)] for prefix in reported)
        if config.num_beams == 1:
            assert lengths == list(range(1, len(best) + 1))


def test_no_images_and_mismatched_options():
    decoder, vocabulary = TableDecoder(7), vocabulary_of(3)
    assert generate(decoder, torch.zeros(0, 6, 49), [], vocabulary) == []
    with pytest.raises(ValueError, match="1 images and 2 options"):
        generate(decoder, torch.zeros(1, 6, 49), [GenerationConfig()] * 2, vocabulary)
