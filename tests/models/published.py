"""Published networks: their parameters, and what earlier generations had otherwise."""

from __future__ import annotations

PARAMETERS = {
    "mambair-classic-x2": 20_421_863,
    "mambair-classic-x3": 20_606_503,
    "mambair-classic-x4": 20_569_575,
    "mambair-light-x2": 905_016,
    "mambair-light-x3": 913_131,
    "mambair-light-x4": 924_492,
    "mambair-denoise-color": 15_777_507,
    # The first and the last convolution have a third of the weights and two biases less.
    "mambair-denoise-gray": 15_777_507 - 2 * 9 * 180 - 2 * (9 * 180 + 1),
    "mambair-jpeg": 15_771_025,
}
MARCH = {"cab": "convolution", "cab_reduction": 6, "state_size": 16, "expansion": 1.5}
FEBRUARY = {"cab": "depthwise", "cab_reduction": 1, "state_size": 16}
