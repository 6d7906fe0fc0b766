"""All libraries, in the order in which their layouts are tried, most specific first."""

from __future__ import annotations

from kancompress.libraries.forms import Form, Named
from kancompress.libraries.known import (
    convkan,
    convolutional_kans,
    cvkan,
    efficient_kan,
    fast_kan,
    fcn_kan,
    flashkan,
    fourier,
    kanlib,
    metakan,
    poly,
    pykan,
    rbf,
    relu_kan,
    sine_kan,
    torch_conv_kan,
    torchkan,
    wav_kan,
)

# Each has LAYOUTS, how its layers lie in tensors, and FORMS, what they compute.
LIBRARIES = (
    pykan,
    metakan,
    rbf,
    convolutional_kans,
    convkan,
    torch_conv_kan,
    fast_kan,
    poly,
    fourier,
    torchkan,
    relu_kan,
    kanlib,
    efficient_kan,
    flashkan,
    wav_kan,
    sine_kan,
    fcn_kan,
    cvkan,
)

LAYOUTS = tuple(layout for library in LIBRARIES for layout in library.LAYOUTS)

# Forms by the names of layouts: of layers that run by themselves, of those whose module is called
# with patches, of convolutions that the user's module tells the window of; and why there is none.
FORMS: dict[str, Form] = {
    name: form for library in LIBRARIES for name, form in library.FORMS.chains.items()
}
PATCH_FORMS: dict[str, Form] = {
    name: form for library in LIBRARIES for name, form in library.FORMS.patches.items()
}
MAP_FORMS: dict[str, Form] = {
    name: form for library in LIBRARIES for name, form in library.FORMS.maps.items()
}
UNKNOWN: dict[str, str] = {
    name: text for library in LIBRARIES for name, text in library.FORMS.unknown.items()
}
RIVALS: dict[str, tuple[str, ...]] = {
    name: rivals for library in LIBRARIES for name, rivals in library.FORMS.rivals.items()
}
UNKNOWN["by-hand"] = "a layout written by hand says where the edges lie, not what they compute"


def basis_word(layout: str) -> str | None:
    """What reports call the basis of a layout's layers; None where that depends on the layer."""
    form = FORMS.get(layout) or PATCH_FORMS.get(layout) or MAP_FORMS.get(layout)
    return form.basis.word if form is not None and isinstance(form.basis, Named) else None
