"""METEOR of single captions: by one process, shared between several, and restarted."""

import pytest

from eval.meteor import MeteorError
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.trainings import FakeMeteor
from training.rewards import SentenceMeteor

TEXTS = [["a dog runs in the grass", "a dog in grass"], ["two children play"]]
VOCABULARY = Vocabulary((*SPECIAL, *dict.fromkeys(" ".join(text for texts in TEXTS for text in texts).split())))
REFERENCES = [[[*VOCABULARY.encode(text.split()), VOCABULARY.eos_id] for text in texts] for texts in TEXTS]
CAPTIONS = ["two children play in the grass", "a dog runs", "a dog play", "", "a dog runs", "a dog runs"]
IMAGES = [1, 0, 1, 0, 1, 0]  # the last pair is the second one again
IDS = [VOCABULARY.encode(text.split()) for text in CAPTIONS]


@pytest.mark.slow
def test_sentence_meteor_equals_meteor_of_the_split(monkeypatch, shared_meteor):
    monkeypatch.setattr("training.rewards.meteor.Meteor", type(shared_meteor))
    monkeypatch.setattr("training.rewards.meteor.available_cpus", lambda: 2)
    reward = SentenceMeteor(REFERENCES, VOCABULARY)
    scores = reward.score(IMAGES, IDS)
    references = {i: TEXTS[image] for i, image in enumerate(IMAGES)}
    _, expected = shared_meteor.score(references, dict(enumerate(CAPTIONS)))
    assert scores.tolist() == expected
    assert min(scores[:3]) > 0 == scores[3]
    assert scores[1] == scores[5] > scores[4]
    assert reward.score([], []).tolist() == []


@pytest.mark.slow
def test_sentence_meteor_whose_java_is_killed_restarts_it(monkeypatch, capsys, shared_meteor):
    monkeypatch.setattr("training.rewards.meteor.available_cpus", lambda: 2)
    reward = SentenceMeteor(REFERENCES, VOCABULARY)
    references = {i: TEXTS[image] for i, image in enumerate(IMAGES)}
    _, expected = shared_meteor.score(references, dict(enumerate(CAPTIONS)))
    assert reward.score(IMAGES, IDS).tolist() == expected
    reward._processes[0].meteor._process.kill()
    assert reward.score(IMAGES, IDS).tolist() == expected
    assert capsys.readouterr().err.count("Restarting it.") == 1
    monkeypatch.setattr("eval.meteor.COMMAND", ("-version",))  # a Java that ends at once
    reward._processes[0].meteor._process.kill()
    with pytest.raises(MeteorError, match="METEOR"):
        reward.score(IMAGES, IDS)


@pytest.mark.parametrize(("cpus", "local_world_size", "processes"), [(2, 1, 1), (12, 1, 3), (64, 1, 4), (16, 2, 2)])
def test_sentence_meteor_processes_share_the_captions(monkeypatch, cpus, local_world_size, processes):
    monkeypatch.setattr("training.rewards.meteor.Meteor", FakeMeteor)
    monkeypatch.setattr("training.rewards.meteor.available_cpus", lambda: cpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_world_size))
    monkeypatch.setattr(FakeMeteor, "started", 0)
    reward = SentenceMeteor(REFERENCES, VOCABULARY)
    assert reward.score(IMAGES, IDS).tolist() == [6.1, 3.2, 3.1, 0.2, 3.1, 3.2]
    assert FakeMeteor.started == 1 + processes  # one checks Java at the start


def test_sentence_meteor_restarts_an_ended_process_once(monkeypatch, capsys):
    class Ending(FakeMeteor):
        """The second process ends at its second call, the fourth one at each."""

        started = 0

        def score(self, references, captions):
            self.calls = getattr(self, "calls", 0) + 1
            if (self.number == 2 and self.calls == 2) or self.number >= 4 or (self.number == 3 and self.calls == 2):
                raise MeteorError("METEOR ended.")
            return super().score(references, captions)

        def __init__(self):
            super().__init__()
            self.number = type(self).started

    monkeypatch.setattr("training.rewards.meteor.Meteor", Ending)
    monkeypatch.setattr("training.rewards.meteor.available_cpus", lambda: 2)
    reward = SentenceMeteor(REFERENCES, VOCABULARY)
    expected = reward.score(IMAGES, IDS)
    assert reward.score(IMAGES, IDS).tolist() == expected.tolist()  # by the third process
    assert capsys.readouterr().err == "METEOR ended. Restarting it.\n"
    with pytest.raises(MeteorError, match="METEOR ended"):  # the third one ends, and the fourth one too
        reward.score(IMAGES, IDS)
