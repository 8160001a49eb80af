"""Last stage of the embedded model: one file that says what it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from trial import parse

from qmamba.assess.policies import CropsPolicy, policy_to_metadata
from qmamba.checkpoints import save_model
from qmamba.models import ModelMetadata, ScoreScale, create_model

POLICY = CropsPolicy(size=224, count=10, shorter=512)
TRAINING = {
    "data": "BIQ2021 (Ahmed and Asif, 2022): 2094 rated photographs of 186 contents from its "
    "official training list, after pre-training on synthetic distortions of these and of 387 "
    "clean photographs (BSDS500 train, 100 images of BSDS500 test, T91)",
    "terms": "weights Apache-2.0; trained on image sets that their authors publish for research",
    "protocol": "trained from scratch; see docs/model_card.md and recipes/",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that finetune.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--name", default="qmamba-nano")
    arguments = parse(parser, "--run {finetuned} --out {out}.safetensors")
    model = create_model(arguments.name)
    model.load_state_dict(torch.load(arguments.run / "finetuned.pt", weights_only=True))
    result = json.loads((arguments.run / "result.json").read_text())
    metadata = ModelMetadata(
        name=arguments.out.stem,
        score=ScoreScale(
            name="BIQ2021 MOS",
            low=0.0,
            high=1.0,
            higher_is_better=True,
            target_mean=result["target_mean"],
            target_std=result["target_std"],
        ),
        policy=policy_to_metadata(POLICY),
        training=TRAINING,
    )
    saved = save_model(model, arguments.out, metadata=metadata)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, sha256 {saved.sha256}")


if __name__ == "__main__":
    main()
