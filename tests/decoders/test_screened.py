"""Many sums are decoded, and a few more have to agree."""

import numpy as np
import pytest

from parimend.codes import Hashed, LowBits, Modular, PowerSums, Screened, Sparse
from parimend.decoders import (
    Buckets,
    HashedSums,
    Peeling,
    ReedSolomon,
    ScreenedSums,
    decoder_for,
)
from parimend.outcomes import Verdict
from tests.decoders.contract import SumsDecoderContract

PRIME = 4_294_991_873


class TestContract(SumsDecoderContract):
    easy, overload, overload_trials = 6, (13, 40), 200

    @pytest.fixture
    def decoder(self):
        return ScreenedSums()

    @pytest.fixture(params=[Screened(200, 22), Screened(3000, 22, seed=5, first=2)])
    def code(self, request):
        return request.param


def test_what_the_few_sums_contradict_is_not_corrected():
    code = Screened(1000, 24)
    syndrome = code.sums_of([5, 77], [1, 2])
    syndrome[0] = (syndrome[0] + np.uint64(1)) % np.uint64(PRIME)
    decoding = ScreenedSums().prepare(code).decode(syndrome)
    assert decoding.verdict is Verdict.UNCORRECTABLE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Screened(99, 24), ScreenedSums),
        (PowerSums(99, 4), ReedSolomon),
        (Modular(99, 64), Buckets),
        (Modular(99, 64, version=2), Buckets),
        (Hashed(99, 136), HashedSums),
    ],
)
def test_every_code_on_sums_has_its_decoder(code, kind):
    assert type(decoder_for(code)) is kind


def test_the_usual_decoder_is_the_one_that_carriers_use():
    assert type(decoder_for(Sparse.for_errors(300, 5))) is Peeling
    assert type(decoder_for(LowBits.for_errors(300, 5))) is Peeling
