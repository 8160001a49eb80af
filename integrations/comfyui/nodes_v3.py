"""The nodes in ComfyUI's V3 schema."""

from comfy_api.latest import ComfyExtension, io

from . import quality

CATEGORY = "image/quality"


def _model() -> io.Input:
    return io.String.Input(
        "model",
        default=quality.DEFAULT,
        tooltip="Quality weights: " + ", ".join(quality.weights()) + ", a file or a hub id.",
    )


class QMambaQualityScore(io.ComfyNode):
    """Score of a batch as a number and as text, and where in each image it comes from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QMambaQualityScore",
            display_name="Quality Score (QMamba)",
            category=CATEGORY,
            description="Mean opinion score that people would give the images.",
            inputs=[
                io.Image.Input("image"),
                _model(),
                io.Boolean.Input(
                    "with_map", default=True, tooltip="Also show where quality is good (bright)."
                ),
            ],
            outputs=[
                io.Float.Output(display_name="score"),
                io.String.Output(display_name="text"),
                io.Image.Output(display_name="map"),
            ],
        )

    @classmethod
    def execute(cls, image, model, with_map) -> io.NodeOutput:
        return io.NodeOutput(*quality.quality_score(image, model, with_map))


class QMambaPickBest(io.ComfyNode):
    """The images of a batch with the best scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QMambaPickBest",
            display_name="Pick Best of Batch (QMamba)",
            category=CATEGORY,
            description="The images with the best opinion scores, the best one first.",
            inputs=[
                io.Image.Input("images"),
                io.Int.Input("count", default=1, min=1, max=4096),
                _model(),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Float.Output(display_name="best_score"),
                io.String.Output(display_name="text"),
            ],
        )

    @classmethod
    def execute(cls, images, count, model) -> io.NodeOutput:
        return io.NodeOutput(*quality.pick_best(images, count, model))


class QMambaKeepIfBetter(io.ComfyNode):
    """A processed image where it scores better than before, the image before it elsewhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QMambaKeepIfBetter",
            display_name="Keep If Better (QMamba)",
            category=CATEGORY,
            description="Compares both at the larger size and keeps the better one.",
            inputs=[
                io.Image.Input("before"),
                io.Image.Input("after"),
                io.Float.Input(
                    "margin",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Points of the score that the gain must exceed.",
                ),
                _model(),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Float.Output(display_name="gain"),
                io.String.Output(display_name="text"),
            ],
        )

    @classmethod
    def execute(cls, before, after, margin, model) -> io.NodeOutput:
        return io.NodeOutput(*quality.keep_if_better(before, after, margin, model))


class QMambaExtension(ComfyExtension):
    """All nodes of this folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [QMambaQualityScore, QMambaPickBest, QMambaKeepIfBetter]


async def comfy_entrypoint() -> QMambaExtension:
    return QMambaExtension()
