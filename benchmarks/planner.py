"""Formulas of plans against simulated years with the real decoders, in settings fixed beforehand.

python benchmarks/planner.py  # for docs/measurements/planning.md, about half an hour
python benchmarks/planner.py --years 100      # a look
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import parimend as pm
from parimend.planner import simulate

LARGE = {"weight": torch.zeros(17_200_000)}
LAYER = {"weight": torch.zeros(5120)}
TWO = {"a": torch.zeros(1_000_000), "b": torch.zeros(50_000)}
BURSTS = "1:0.7,2:0.2,8:0.08,16:0.02"

SECTORS = {"read_rate": 1e-14, "events": "1025:1"}

SETTINGS = (
    # name, model, plan, environment
    ("single words", LARGE, {"errors": 4}, {"rate": 1e-12}),
    ("bursts up to 16 words", LARGE, {"errors": 16}, {"rate": 1e-12, "events": BURSTS}),
    ("the budget of 210", LARGE, {"errors": 210}, {"rate": 1e-12, "events": BURSTS}),
    ("a budget of 1,000", LARGE, {"errors": 1000}, {"rate": 1e-12}),
    ("events beyond the budget", LARGE, {"errors": 8}, {"rate": 1e-12, "events": "1:0.98,64:0.02"}),
    ("one word for each tensor", TWO, {"errors": 5, "per": "tensor"}, {"rate": 1e-12}),
    ("cells that fail for good", LARGE, {"errors": 8}, {"rate": 1e-12, "hard_rate": 2e-13}),
    ("worn cells, few events", LARGE, {"errors": 12}, {"rate": 1e-14, "hard_rate": 1e-12}),
    ("reads of a disk", LARGE, {"errors": 64}, {"read_rate": 1e-14, "events": "16:0.9,32:0.1"}),
    ("sectors that a disk tells", LARGE, {"errors": 513}, {**SECTORS, "told": True}),
    ("linear constraints, measured", LAYER, {"errors": 210, "carrier": "real"}, {"rate": 1e-12}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n")
    print("| setting | errors | lost | years | interval (95 %) | formula | inside | wrong | s |")
    print("|---" * 9 + "|")
    inside = 0
    for name, model, plan, where in SETTINGS:
        events = pm.Events.of(where.get("events", "1:1"))
        there = pm.Environment(name, **{**where, "events": events})
        made = pm.plan(model, service=there, measure=False, **plan)
        began = time.process_time()
        it = simulate(made, args.years, args.seed)
        inside += it.inside
        print(
            f"| {name} | {made.errors} | {it.lost} | {it.years} | {it.low:.4f} to {it.high:.4f} | "
            f"{it.formula:.4f} | {'yes' if it.inside else 'no'} | {it.wrong} | "
            f"{time.process_time() - began:.0f} |",
            flush=True,
        )
    print(f"\n{inside} of {len(SETTINGS)} inside")


if __name__ == "__main__":
    main()
