"""The same nodes for a ComfyUI that does not know the V3 schema."""

from . import quality

CATEGORY = "image/quality"
MODEL = ("STRING", {"default": quality.DEFAULT})


class QMambaQualityScore:
    """See nodes_v3."""

    CATEGORY = CATEGORY
    FUNCTION = "execute"
    RETURN_TYPES = ("FLOAT", "STRING", "IMAGE")
    RETURN_NAMES = ("score", "text", "map")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "model": MODEL,
                "with_map": ("BOOLEAN", {"default": True}),
            }
        }

    def execute(self, image, model, with_map):
        return quality.quality_score(image, model, with_map)


class QMambaPickBest:
    """See nodes_v3."""

    CATEGORY = CATEGORY
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("images", "best_score", "text")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "count": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "model": MODEL,
            }
        }

    def execute(self, images, count, model):
        return quality.pick_best(images, count, model)


class QMambaKeepIfBetter:
    """See nodes_v3."""

    CATEGORY = CATEGORY
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("image", "gain", "text")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "before": ("IMAGE",),
                "after": ("IMAGE",),
                "margin": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.01}),
                "model": MODEL,
            }
        }

    def execute(self, before, after, margin, model):
        return quality.keep_if_better(before, after, margin, model)


NODE_CLASS_MAPPINGS = {
    "QMambaQualityScore": QMambaQualityScore,
    "QMambaPickBest": QMambaPickBest,
    "QMambaKeepIfBetter": QMambaKeepIfBetter,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "QMambaQualityScore": "Quality Score (QMamba)",
    "QMambaPickBest": "Pick Best of Batch (QMamba)",
    "QMambaKeepIfBetter": "Keep If Better (QMamba)",
}
