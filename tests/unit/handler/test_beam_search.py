"""Beam search against brute force and hand-worked cases, and batches against single images."""

import itertools
import math

import pytest
import torch

from handler.generation import GenerationConfig, generate
from handler.modeling import DECODERS, SoftAttentionConfig, TransformerConfig, build_decoder
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.bundles import small_config
from tests.helpers.table_decoder import END, A, B, C, TableDecoder, probability_table, random_tables, vocabulary_of


def brute_force(
    table: torch.Tensor, vocabulary: Vocabulary, configs: GenerationConfig
) -> list[tuple[float, list[int]]]:
    """Return all captions with their scores, best first: every sequence, scored by adding up the table."""
    logprobs = table.unflatten(1, (len(vocabulary), len(vocabulary))).log_softmax(-1)
    ranked = []
    tokens = range(len(SPECIAL), len(vocabulary))
    for length in range(configs.min_length, configs.max_length + 1):
        for sequence in itertools.product(tokens, repeat=length):
            last, total = vocabulary.bos_id, 0.0
            for step, token in enumerate((*sequence, vocabulary.eos_id)):
                total += logprobs[step, last, token].item()
                last = token
            ranked.append((total / (length + 1) ** configs.length_penalty, list(sequence)))
    return sorted(ranked, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_generate_with_a_wide_beam_equals_brute_force(seed, length_penalty):
    vocabulary = vocabulary_of(3)
    tables = random_tables(4, 5, vocabulary, seed)
    configs = GenerationConfig(beam_size=400, length_penalty=length_penalty, max_length=4, num_captions=5)
    generated = generate(TableDecoder(len(vocabulary)), tables, [configs] * 4, vocabulary)
    for table, hypotheses in zip(tables, generated, strict=True):
        expected = brute_force(table, vocabulary, configs)[:5]
        assert [h.token_ids for h in hypotheses] == [sequence for _, sequence in expected]
        for hypothesis, (rank, _) in zip(hypotheses, expected, strict=True):
            total = sum(hypothesis.logprobs)
            assert total / len(hypothesis.logprobs) ** length_penalty == pytest.approx(rank, abs=1e-4)


# a 0.6 is best at first, but continues with 0.36 at most; b 0.4 continues with 0.9.
#   greedy: a c <end>  = 0.6 * 0.36 * 1.0 = 0.216;   beam 2: b c <end> = 0.4 * 0.9 * 1.0 = 0.36
GARDEN_PATH = {
    1: {A: 0.6, B: 0.4},
    A: {A: 0.33, C: 0.36, END: 0.31},
    B: {C: 0.9, END: 0.1},
    C: {END: 1.0},
}


@pytest.mark.parametrize(("beam_size", "tokens", "probability"), [(1, [A, C], 0.216), (2, [B, C], 0.36)])
def test_generate_follows_the_hand_worked_example(beam_size, tokens, probability):
    vocabulary = vocabulary_of(3)
    configs = GenerationConfig(beam_size=beam_size, length_penalty=0.0, max_length=5)
    [[best]] = generate(TableDecoder(7), probability_table(GARDEN_PATH, 6), [configs], vocabulary)
    assert best.token_ids == tokens
    assert math.exp(sum(best.logprobs)) == pytest.approx(probability, rel=1e-5)
    assert best.score == pytest.approx(math.log(probability) / 3, rel=1e-5)


def test_length_penalty_decides_between_short_and_long():
    # a <end> = 0.5 * 0.3 = 0.15;  a b <end> = 0.5 * 0.7 * 0.4 = 0.14
    # by the mean: ln 0.15 / 2 = -0.949, ln 0.14 / 3 = -0.655
    rows = {1: {A: 0.5, C: 0.5}, A: {END: 0.3, B: 0.7}, B: {END: 0.4, C: 0.6}, C: {C: 0.99, END: 0.01}}
    vocabulary, table = vocabulary_of(3), probability_table(rows, 3)
    for length_penalty, tokens in ((0.0, [A]), (1.0, [A, B])):
        configs = GenerationConfig(beam_size=20, length_penalty=length_penalty, max_length=2)
        [[best]] = generate(TableDecoder(7), table, [configs], vocabulary)
        assert best.token_ids == tokens


def test_generate_without_an_ending_beam_ends_at_max_length():
    table = probability_table({1: {A: 1.0}, A: {A: 0.5, B: 0.5}, B: {A: 0.5, B: 0.5}}, 8)
    [[best]] = generate(TableDecoder(7), table, [GenerationConfig(beam_size=3, max_length=7)], vocabulary_of(3))
    assert len(best.token_ids) == 7


def test_length_limits_hold():
    vocabulary = vocabulary_of(3)
    tables = random_tables(8, 7, vocabulary, 3)
    tables.unflatten(2, (7, 7))[..., END] += 6  # a model that tends to end at once
    for low, high in ((1, 6), (3, 6), (6, 6), (1, 2)):
        configs = GenerationConfig(beam_size=3, min_length=low, max_length=high)
        for [best] in generate(TableDecoder(7), tables, [configs] * 8, vocabulary):
            assert low <= len(best.token_ids) <= high


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram_prevents_repetitions(size, beam_size):
    vocabulary = vocabulary_of(3)
    tables = random_tables(16, 13, vocabulary, 7)
    tables.unflatten(2, (7, 7))[..., END] -= 9  # a model that rarely ends

    def repeats(ids: list[int]) -> bool:
        runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(set(runs)) < len(runs)

    unconstrained = GenerationConfig(beam_size=beam_size, max_length=12)
    constrained = GenerationConfig(beam_size=beam_size, max_length=12, no_repeat_ngram=size)
    generated = generate(TableDecoder(7), tables, [unconstrained] * 16, vocabulary)
    assert any(repeats(best.token_ids) for [best] in generated)
    for [best] in generate(TableDecoder(7), tables, [constrained] * 16, vocabulary):
        assert not repeats(best.token_ids)
        assert len(best.token_ids) >= 1


# `a` is an English function word, b and c are content words. Greedy search: b a b a b, as b 1.0, b → a 0.9, a → b 0.8.
#   without a second b: b a c <end> = 1.0 * 0.9 * 0.15 * 1.0
REPEATING = {1: {B: 1.0}, B: {A: 0.9, END: 0.1}, A: {B: 0.8, C: 0.15, END: 0.05}, C: {END: 1.0}}


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"temperature": 0.01, "seed": 0}])
def test_no_repeat_words_allows_function_words_only_to_recur(options):
    vocabulary, table = vocabulary_of(3), probability_table(REPEATING, 6)
    for no_repeat_words, tokens in ((False, [B, A, B, A, B]), (True, [B, A, C])):
        configs = GenerationConfig(max_length=5, no_repeat_words=no_repeat_words, **options)
        [[best]] = generate(TableDecoder(7), table, [configs], vocabulary)
        assert best.token_ids == tokens
    assert best.logprobs == pytest.approx([0.0, math.log(0.9), math.log(0.15), 0.0], abs=1e-5)  # those of the model


def test_no_repeat_words_leaves_the_end_to_a_hypothesis_without_other_words():
    """The model repeats one word and gives `<end>` 0.001."""
    vocabulary = Vocabulary((*SPECIAL, "dog"))
    logits = torch.full((5, 5), -1e4)
    logits[1, 4], logits[4, 4], logits[4, END] = 0.0, math.log(0.999), math.log(0.001)
    for beam_size in (1, 4):
        config = GenerationConfig(beam_size=beam_size, no_repeat_words=True, min_length=3)
        [[best]] = generate(TableDecoder(5), logits.flatten().expand(1, 21, -1), [config], vocabulary)
        assert best.token_ids == [4]
        assert best.logprobs == pytest.approx([0.0, math.log(0.001)], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "options"),
    [("a b c", {"no_repeat_ngram": 1}), ("dog cat runs", {"no_repeat_words": True})],
)
def test_min_length_yields_if_no_token_is_left(words, options):
    configs = GenerationConfig(beam_size=2, min_length=9, max_length=12, **options)
    vocabulary = Vocabulary((*SPECIAL, *words.split()))
    [[best]] = generate(TableDecoder(7), random_tables(1, 13, vocabulary, 0), [configs], vocabulary)
    assert sorted(best.token_ids) == [A, B, C]


def test_special_tokens_are_never_emitted():
    vocabulary = vocabulary_of(3)
    tables = random_tables(8, 7, vocabulary, 1)
    tables.unflatten(2, (7, 7))[..., [0, 1, 3]] += 20
    for generated in generate(
        TableDecoder(7), tables, [GenerationConfig(num_captions=3, max_length=6)] * 8, vocabulary
    ):
        for hypothesis in generated:
            assert set(hypothesis.token_ids) <= {A, B, C}


MIXED = [
    GenerationConfig(beam_size=1),
    GenerationConfig(beam_size=5, length_penalty=1.0, num_captions=4),
    GenerationConfig(beam_size=3, max_length=4),
    GenerationConfig(beam_size=2, min_length=6, no_repeat_ngram=2),
    GenerationConfig(beam_size=7, length_penalty=0.0, num_captions=2, attention=True),
    GenerationConfig(beam_size=3, no_repeat_ngram=3, max_length=9),
    GenerationConfig(beam_size=4, no_repeat_words=True, num_captions=2),
    GenerationConfig(beam_size=4, num_beam_groups=4, diversity_penalty=1.0, num_captions=4),
    GenerationConfig(beam_size=6, num_beam_groups=3, num_captions=5, no_repeat_ngram=2, attention=True),
    GenerationConfig(beam_size=4, num_beam_groups=2, diversity_penalty=2.0, min_length=3, max_length=6),
    GenerationConfig(temperature=1.0, seed=1),
    GenerationConfig(temperature=0.7, top_p=0.8, seed=2, num_captions=6, max_length=7),
    GenerationConfig(temperature=1.5, seed=3, num_captions=3, no_repeat_ngram=2, min_length=3, attention=True),
    GenerationConfig(temperature=1.0, seed=4, num_captions=3, no_repeat_words=True, no_repeat_ngram=2),
]


@pytest.mark.parametrize("name", DECODERS)
def test_mixed_batch_equals_one_by_one(name):
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, len(vocabulary), 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)  # decisive, as a trained model is
    configs = MIXED * 4
    grid = torch.randn(len(configs), 9, 12)
    together = generate(decoder, grid, configs, vocabulary)
    for image, config in enumerate(configs):
        [alone] = generate(decoder, grid[image : image + 1], [config], vocabulary)
        assert [h.token_ids for h in together[image]] == [h.token_ids for h in alone]
        assert len(alone) == config.num_captions
        for left, right in zip(together[image], alone, strict=True):
            assert left.logprobs == pytest.approx(right.logprobs, abs=3e-3)  # float32, and large weights
            if config.attention and name != "nic":
                assert left.attention.shape == (len(left.token_ids), 9)
                assert left.attention.sum(1).tolist() == pytest.approx([1.0] * len(left.token_ids), abs=1e-5)
            else:
                assert left.attention is None


@pytest.mark.parametrize("interval", [3, 4])
def test_interval_of_done_checks_changes_nothing(monkeypatch, interval):
    """Checks are rare on a GPU: until the next one, hypotheses of finished images are extended further."""
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = TransformerConfig(embed_dim=16, ffn_dim=24, num_heads=4, num_layers=2)
    decoder = build_decoder(config, len(vocabulary), 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    configs = MIXED * 4
    grid = torch.randn(len(configs), 9, 12)
    at_every_step = generate(decoder, grid, configs, vocabulary)
    monkeypatch.setattr("handler.generation.beam_search.DONE_CHECK_INTERVAL", {"cpu": interval})
    with_interval = generate(decoder, grid, configs, vocabulary)
    assert [[h.token_ids for h in some] for some in with_interval] == [
        [h.token_ids for h in some] for some in at_every_step
    ]
    for left, right in zip(*map(itertools.chain.from_iterable, (with_interval, at_every_step)), strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_logprobs_and_attention_are_those_of_teacher_forcing(name):
    """Teacher forcing with a returned caption gives the same log-probabilities and attention."""
    torch.manual_seed(1)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(20))))
    config = small_config(name, embed_dim=16, hidden_dim=16, ffn_dim=16, attention_dim=8)
    decoder = build_decoder(config, 24, 12).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    grid = torch.randn(5, 9, 12)
    configs = GenerationConfig(beam_size=4, num_captions=4, max_length=8, attention=True)
    for image, hypotheses in enumerate(generate(decoder, grid, [configs] * 5, vocabulary)):
        assert len(hypotheses) == 4
        for hypothesis in hypotheses:
            inputs = torch.tensor([[[vocabulary.bos_id, *hypothesis.token_ids]]])
            logits, attention, _ = decoder(grid[image : image + 1], inputs)
            targets = torch.tensor([*hypothesis.token_ids, vocabulary.eos_id])
            expected = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
            assert hypothesis.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            if attention is not None:
                torch.testing.assert_close(hypothesis.attention, attention[0, 0, :-1], atol=1e-5, rtol=1e-4)


def test_greedy_search_is_the_argmax_of_each_step():
    vocabulary = vocabulary_of(3)
    tables = random_tables(10, 13, vocabulary, 5)
    generated = generate(TableDecoder(7), tables, [GenerationConfig(beam_size=1, max_length=12)] * 10, vocabulary)
    for table, [best] in zip(tables.unflatten(2, (7, 7)), generated, strict=True):
        last, tokens = vocabulary.bos_id, []
        while len(tokens) < 12:
            allowed = [END, A, B, C] if tokens else [A, B, C]
            last = max(allowed, key=lambda token: table[len(tokens), last, token].item())
            if last == END:
                break
            tokens.append(last)
        assert best.token_ids == tokens


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


def test_returned_attention_does_not_keep_the_batch_in_memory():
    torch.manual_seed(0)
    decoder = build_decoder(SoftAttentionConfig(embed_dim=8, hidden_dim=8, attention_dim=8), 7, 5).eval()
    configs = GenerationConfig(attention=True, max_length=6)
    for [best] in generate(decoder, torch.randn(4, 9, 5), [configs] * 4, vocabulary_of(3)):
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


def test_generate_rejects_mismatched_options():
    decoder, vocabulary = TableDecoder(7), vocabulary_of(3)
    assert generate(decoder, torch.zeros(0, 6, 49), [], vocabulary) == []
    with pytest.raises(ValueError, match="1 images and 2 options"):
        generate(decoder, torch.zeros(1, 6, 49), [GenerationConfig()] * 2, vocabulary)
