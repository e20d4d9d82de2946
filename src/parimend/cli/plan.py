"""``parimend plan``."""

from __future__ import annotations

from parimend.cli.output import Json, Only, print_json, print_table
from parimend.cli.protect import (
    CarrierName,
    CarrierOption,
    Errors,
    PerName,
    PerOption,
    Seed,
    Source,
)


def command(
    src: Source,
    carrier: CarrierOption = CarrierName.SIDECAR,
    errors: Errors = 210,
    only: Only = None,
    per: PerOption = PerName.MODEL,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what protecting a file would take. Nothing is written.

    checks: equations that the words satisfy. redundancy: part of the weights' freedom that they
    take (real only). seal: bytes to be kept for them. moved: how far the weights would go at most
    (relative L2).
    """
    from parimend.files import plan_file

    planned = plan_file(src, errors, carrier.value, only=only, per=per.value, seed=seed)
    if json:
        files = [
            {"path": path, "words": [word.as_dict() for word in words]} for path, words in planned
        ]
        print_json("plan", {"carrier": carrier.value, "errors": errors, "files": files})
        return
    rows = [
        [
            path,
            word.name,
            f"{word.elements:,}",
            f"{word.checks:,}",
            f"{word.redundancy:.2%}",
            f"{word.seal_bytes:,}",
            f"{word.moved:.2g}",
        ]
        for path, words in planned
        for word in words
    ]
    print_table(["file", "word", "elements", "checks", "redundancy", "seal", "moved"], rows)
