"""The score of a photograph with numpy and ONNX Runtime alone: no torch, no qmamba.

python examples/score_with_onnx.py qmamba.onnx examples/coffee.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

SIDE, ROWS, COLUMNS, SHORTER = 224, 2, 5, 512

session = onnxruntime.InferenceSession(sys.argv[1])
scale = json.loads(session.get_modelmeta().custom_metadata_map["qmamba.score"])
with Image.open(sys.argv[2]) as photograph:
    image = photograph.convert("RGB")
if min(image.size) > SHORTER:
    factor = SHORTER / min(image.size)
    image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)
pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255

tops = np.floor(np.linspace(0, image.height - SIDE, ROWS) + 0.5).astype(int)
lefts = np.floor(np.linspace(0, image.width - SIDE, COLUMNS) + 0.5).astype(int)
crops = [pixels[:, top : top + SIDE, left : left + SIDE] for top in tops for left in lefts]
scores = session.run(["score"], {"image": np.stack(crops)})[0]
print(np.clip(scores.mean(), scale["low"], scale["high"]))
