"""Image quality for ComfyUI, and MambaIR in its stock "Load Upscale Model" node.

ComfyUI imports this folder, so importing it registers MambaIR with spandrel. The nodes come in the
V3 schema, and in the old one where ComfyUI does not know V3 yet.
"""

from qmamba.interop.spandrel import register

register()

try:
    from .nodes_v3 import comfy_entrypoint
except ImportError:
    from .nodes_v1 import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
else:
    __all__ = ["comfy_entrypoint"]
