"""The requests of a soak test."""

from random import Random

from deploy.soak.request_mix import INVALID, VALID, sample_requests


def test_sample_requests_has_every_kind_and_one_invalid_request_in_ten():
    cases = sample_requests([b"a", b"b"], 120, Random(0))
    assert {case.kind for case in cases} == {*VALID, *INVALID}
    assert sum(not case.valid for case in cases) == 12


def test_sample_requests_is_reproducible():
    cases = sample_requests([b"a", b"b"], 120, Random(0))
    assert cases == sample_requests([b"a", b"b"], 120, Random(0))
    assert cases != sample_requests([b"a", b"b"], 120, Random(1))
