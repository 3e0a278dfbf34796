"""Routing's parameters until a catalog has its own: fitted to the project's labelled sets by `make bench ARGS=routing-fit`."""

from router.matching import Matching, Parameters

MIN_SCORE, MARGIN = 0.6, 0.1

MATCHING = Matching(
    full=Parameters(
        weights=(0.247, 0.097, 0.100, 0.279, 0.146, 0.131),
        sharpness=36.3,
        first=(0.849, 0.839, 0.867, 1.438, -2.207),
        few=(1.619, 0.225, 0.779, 1.779, -0.149),
    ),
    lexical=Parameters(
        weights=(0.514, 0.207, 0.279),
        sharpness=27.3,
        first=(0.365, 0.748, 0.766, 1.891, -2.501),
        few=(1.032, -0.233, 1.178, 2.857, -0.259),
    ),
)
