import math

from typing_extensions import override

from spandrel.util import KeyCondition, get_pixelshuffle_params, get_seq_len

from ...__helpers.model_descriptor import (
    Architecture,
    ImageModelDescriptor,
    ModelTiling,
    StateDict,
)
from .__arch.mambair import MambaIR

_BLOCK = "layers.0.residual_group.blocks.0."
_CAB = _BLOCK + "conv_blk.cab."


class MambaIRArch(Architecture[MambaIR]):
    def __init__(self) -> None:
        super().__init__(
            id="MambaIR",
            detect=KeyCondition.has_all(
                "conv_first.weight",
                "patch_embed.norm.weight",
                "norm.weight",
                _BLOCK + "skip_scale",
                _BLOCK + "skip_scale2",
                _BLOCK + "self_attention.A_logs",
                _BLOCK + "self_attention.x_proj_weight",
                _CAB + "0.weight",
            ),
        )

    @override
    def load(self, state_dict: StateDict) -> ImageModelDescriptor[MambaIR]:
        channels = state_dict["conv_first.weight"].shape[1]
        dim = state_dict["conv_first.weight"].shape[0]
        groups = get_seq_len(state_dict, "layers")
        depths = tuple(
            get_seq_len(state_dict, f"layers.{group}.residual_group.blocks")
            for group in range(groups)
        )
        state_size = state_dict[_BLOCK + "self_attention.A_logs"].shape[1]
        inner = state_dict[_BLOCK + "self_attention.out_proj.weight"].shape[1]
        three_convolutions = "layers.0.conv.0.weight" in state_dict

        # the channel attention block is published in three versions
        first = state_dict[_CAB + "0.weight"]
        if _CAB + "5.attention.1.weight" in state_dict:
            cab, attention = "separable", _CAB + "5.attention.1.weight"
        elif _CAB + "3.attention.1.weight" in state_dict:
            cab, attention = "convolution", _CAB + "3.attention.1.weight"
        else:
            cab, attention = "depthwise", _CAB + "1.attention.1.weight"

        upscale = 1
        if "conv_up1.weight" in state_dict:
            upsampler, upscale = "nearest+conv", 4
        elif "conv_before_upsample.0.weight" in state_dict:
            upsampler = "pixelshuffle"
            upscale, _ = get_pixelshuffle_params(state_dict, "upsample")
        elif "upsample.0.weight" in state_dict:
            upsampler = "pixelshuffledirect"
            upscale = math.isqrt(state_dict["upsample.0.weight"].shape[0] // channels)
        else:
            upsampler = ""

        model = MambaIR(
            channels=channels,
            dim=dim,
            depths=depths,
            state_size=state_size,
            inner=inner,
            cab=cab,
            cab_dim=first.shape[0],
            attention_dim=state_dict[attention].shape[0],
            three_convolutions=three_convolutions,
            upscale=upscale,
            upsampler=upsampler,
        )

        kind = {"pixelshuffle": "classic", "pixelshuffledirect": "light", "nearest+conv": "real"}
        return ImageModelDescriptor(
            model,
            state_dict,
            architecture=self,
            purpose="Restoration" if upscale == 1 else "SR",
            tags=[f"{dim}dim", f"{sum(depths)}blocks", *filter(None, [kind.get(upsampler)])],
            # exp and softplus of the scan leave the range of half precision
            supports_half=False,
            supports_bfloat16=True,
            scale=upscale,
            input_channels=channels,
            output_channels=channels,
            # the scan runs through all pixels
            tiling=ModelTiling.DISCOURAGED,
        )


__all__ = ["MambaIR", "MambaIRArch"]
