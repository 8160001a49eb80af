"""The family of QMamba and LQMamba, and its named models."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.qmamba.conversion import convert_vmamba, infer_config, is_vmamba, refit_qmamba
from qmamba.models.qmamba.flops import qmamba_flops
from qmamba.models.qmamba.network import QMamba

_TINY = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 4, 2))
_SMALL = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 15, 2))
_BASE = QMambaConfig(dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2))
_NANO = QMambaConfig(dims=(32, 64, 128, 256), depths=(1, 2, 3, 1))
_MINI = QMambaConfig(
    dims=(48, 96, 192, 384), depths=(1, 2, 3, 1), statistics=96, statistics_inputs=76
)


def _local(config: QMambaConfig) -> QMambaConfig:
    # The paper gives no window sizes; these are 32 image pixels in the first three stages and
    # reproduce its FLOP counts.
    return config.replace(windows=(8, 4, 2, 2), route_gate=True)


QMAMBA = Architecture(
    config=QMambaConfig,
    build=QMamba,
    models={
        "qmamba-nano": _NANO,
        "qmamba-mini": _MINI,
        "qmamba-tiny": _TINY,
        "qmamba-small": _SMALL,
        "qmamba-base": _BASE,
        # VMamba's s1l8 and s1l20: as many channels in the scan as outside it, and more blocks.
        "qmamba-tiny-s1": _TINY.replace(depths=(2, 2, 8, 2), expansion=1.0),
        "qmamba-small-s1": _SMALL.replace(depths=(2, 2, 20, 2), expansion=1.0),
        "qmamba-base-s1": _BASE.replace(depths=(2, 2, 20, 2), expansion=1.0),
        "lqmamba-nano": _local(_NANO),
        "lqmamba-tiny": _local(_TINY),
        "lqmamba-small": _local(_SMALL),
        "lqmamba-base": _local(_BASE),
    },
    flops=qmamba_flops,
    recognizes=is_vmamba,
    convert=convert_vmamba,
    infer=infer_config,
    refit=refit_qmamba,
    rates=True,
    quantizable=True,
    tensors_per_block=18,
)
