"""How errors travel: what a fault in a layer does to the layers behind it, and to the answer.

>>> import torch
>>> from parimend.upsets import Upset
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4)).eval()
>>> with torch.no_grad():
...     _ = model[0].weight.copy_(torch.eye(4)), model[1].weight.copy_(3 * torch.eye(4))
...     _ = model[1].bias.zero_()
>>> found = trace(model, torch.ones(8, 4), Upset("offset", size=0.2), only="0", seeds=range(6))
>>> [(each.layer, round(each.error.value, 4)) for each in found.struck[0].passages]
[('0', 0.1), ('1', 0.1), ('', 0.1)]
>>> round(found.layers[-1].gain.value, 4)  # three times the error, in three times the output
1.0
"""

from parimend.propagation.records import Group, Layer, Passage, Struck, Trace
from parimend.propagation.tracing import trace
from parimend.propagation.watching import classes

__all__ = [
    "Group",
    "Layer",
    "Passage",
    "Struck",
    "Trace",
    "classes",
    "trace",
]
