"""Protection where models are saved and loaded: what is loaded is what was verified."""

from parimend.loading.load import load_file, load_folder
from parimend.loading.policy import OnDamage
from parimend.loading.receipts import Receipt, receipt
from parimend.loading.saving import save_file
from parimend.loading.verifying import verified, verify

__all__ = [
    "OnDamage",
    "Receipt",
    "load_file",
    "load_folder",
    "receipt",
    "save_file",
    "verified",
    "verify",
]
