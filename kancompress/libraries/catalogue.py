"""All layouts in the order in which they are tried, most specific first."""

from __future__ import annotations

from kancompress.libraries.known import (
    convkan,
    convolutional_kans,
    efficient_kan,
    fast_kan,
    flashkan,
    fourier,
    kanlib,
    metakan,
    poly,
    pykan,
    rbf,
    relu_kan,
    torch_conv_kan,
    torchkan,
)

LAYOUTS = (
    *pykan.LAYOUTS,
    *metakan.LAYOUTS,
    *rbf.LAYOUTS,
    *convolutional_kans.LAYOUTS,
    *convkan.LAYOUTS,
    *torch_conv_kan.LAYOUTS,
    *fast_kan.LAYOUTS,
    *poly.LAYOUTS,
    *fourier.LAYOUTS,
    *torchkan.LAYOUTS,
    *relu_kan.LAYOUTS,
    *kanlib.LAYOUTS,
    *efficient_kan.LAYOUTS,
    *flashkan.LAYOUTS,
)
