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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per", ["model", "row"])
def test_a_tensor_of_zeros_is_moved_about_as_far_as_the_weights_beside_it(per, dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 10, dtype=dtype)
    with torch.no_grad():
        layer.weight *= 1e-4
        layer.bias.zero_()
    before = layer.weight.clone()
    seal = pm.protect_(layer, 3, "real", per=per)
    assert layer.bias.abs().max() <= (layer.weight - before).abs().max()
    with torch.no_grad():
        layer.bias[3] = 1.0
    assert pm.repair_(layer, seal).ok


def test_a_word_of_nothing_but_zeros_stays_so():
    layer = torch.nn.Linear(512, 10)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    seal = pm.protect_(layer, 3, "real")
    assert not layer.weight.any()
    with torch.no_grad():
        layer.weight[3, 5] = 0.5
    assert pm.repair_(layer, seal).ok
    assert not layer.weight.any()
