"""Routing's parameters until a catalog has its own: fitted to the project's labelled sets by `make bench ARGS=routing-fit`."""

from router.matching import Matching, Parameters

MATCHING = Matching(
    full=Parameters(
        weights=(0.253, 0.097, 0.103, 0.260, 0.168, 0.119),
        sharpness=35.4,
        first=(0.815, 0.844, 0.903, 1.481, -2.282),
        few=(1.606, 0.228, 0.775, 1.793, -0.134),
    ),
    lexical=Parameters(
        weights=(0.514, 0.207, 0.279),
        sharpness=27.3,
        first=(0.365, 0.748, 0.766, 1.891, -2.501),
        few=(1.032, -0.233, 1.178, 2.857, -0.259),
    ),
)
