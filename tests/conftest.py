"""For all tests: nothing is logged to W&B but where a test asks for it, whoever is logged in on the machine."""

from __future__ import annotations

import os

os.environ["WANDB_MODE"] = "disabled"
