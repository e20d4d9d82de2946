"""A training loop whose checkpoints heal, optimizer state included.

    python examples/training_checkpoints.py [FOLDER]

Goes on training the weights of a small forecasting model (from the package fracast), is
interrupted, and resumes from a checkpoint that was damaged meanwhile.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file

import parimend as pm


def pretrained() -> torch.nn.ParameterDict:
    """The float32 weights that fracast ships."""
    package = Path(find_spec("fracast").origin).parent
    tensors = load_file(package / "weights" / "model.safetensors")
    names = {name.replace(".", "_"): value for name, value in tensors.items()}
    return torch.nn.ParameterDict({k: v for k, v in names.items() if v.is_floating_point()})


def train(model, optimizer, path: Path, epochs: range) -> float:
    """Train for some epochs, saving a checkpoint after each; the last loss."""
    for epoch in epochs:
        optimizer.zero_grad()
        loss = sum(weight.pow(4).sum() for weight in model.values())  # stands for a real one
        loss.backward()
        optimizer.step()
        # Instead of torch.save:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        pm.save_file(state, path, errors=500)
    return loss.item()


def main(folder: Path) -> None:
    """Train without a break, and with one; compare."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"

    model = pretrained()
    expected = train(model, torch.optim.Adam(model.parameters()), path, range(6))

    model = pretrained()
    train(model, torch.optim.Adam(model.parameters()), path, range(3))
    content = bytearray(path.read_bytes())
    content[50_000:52_000] = bytes(2_000)  # half a page is lost
    path.write_bytes(content)

    model = pretrained()
    optimizer = torch.optim.Adam(model.parameters())
    # Instead of torch.load:
    state = pm.load_file(path, on_damage="repair")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    loss = train(model, optimizer, path, range(state["epoch"] + 1, 6))
    print(f"resumed after epoch {state['epoch']}; same loss as without a break: {loss == expected}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
