import pytest
import torch

import parimend as pm
from parimend.carriers.imposing import pieces_of
from parimend.errors import MismatchError
from parimend.stores.shards import store_of


def test_a_tensor_that_has_become_shorter_is_named_and_not_read_beyond_its_end():
    model = torch.nn.Linear(60, 40)
    word = pm.protect_(model, 5, carrier="real").words[0].word
    tensors = store_of(dict(model.named_parameters()))
    model.weight.data = torch.zeros(8, 60)
    with pytest.raises(MismatchError, match=r"weight has become another one .*\[40, 60\]"):
        pieces_of(word, tensors)
