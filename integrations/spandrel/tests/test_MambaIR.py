from spandrel.architectures.MambaIR import MambaIR, MambaIRArch

from .util import assert_loads_correctly, skip_if_unchanged

skip_if_unchanged(__file__)


def test_load():
    assert_loads_correctly(
        MambaIRArch(),
        lambda: MambaIR(),
        lambda: MambaIR(channels=1),
        lambda: MambaIR(dim=48, inner=96, depths=(2, 3, 1), state_size=8),
        lambda: MambaIR(cab="convolution", cab_dim=20),
        lambda: MambaIR(cab="depthwise", cab_dim=60),
        lambda: MambaIR(attention_dim=6),
        lambda: MambaIR(three_convolutions=True),
        lambda: MambaIR(upsampler="pixelshuffledirect", upscale=2),
        lambda: MambaIR(upsampler="pixelshuffledirect", upscale=3),
        lambda: MambaIR(upsampler="pixelshuffledirect", upscale=4),
        lambda: MambaIR(upsampler="pixelshuffle", upscale=2),
        lambda: MambaIR(upsampler="pixelshuffle", upscale=3),
        lambda: MambaIR(upsampler="pixelshuffle", upscale=4),
        lambda: MambaIR(upsampler="nearest+conv", upscale=4),
    )
