import copy
import io
import threading

import torch

from parimend.removable import Hook


def test_copies_of_a_model_leave_its_hooks_behind():
    called = []

    class Handle:
        lock = threading.Lock()  # can be neither copied nor pickled

        def __init__(self):
            self.own = threading.Lock()

        def see(self, *args):
            called.append(args[0])

    model = torch.nn.Linear(3, 2)
    model.register_forward_pre_hook(Hook(Handle().see))
    model.register_forward_hook(Hook(Handle().see), always_call=True)
    model.register_load_state_dict_post_hook(Hook(Handle().see))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = torch.ones(1, 3)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert called == [model, model]
        called.clear()
        other.load_state_dict(model.state_dict())
        assert called == []
