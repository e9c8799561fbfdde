"""What a value that JSON does not know is written as.

A codec gives the *form* of the values of its classes: a mapping with ``__type__`` (or a list, a text,
a number), which may hold any further values, which `timbr_wamp.values` writes in turn. Codecs are found
by class, by the name of a class in a library that may not be installed, or by asking (`registry`).
Ours are in `plain` (the standard library), `files`, `arrays` (numpy) and `tables` (pandas). None of
them imports numpy or pandas: a value of theirs proves that somebody else did.
"""

from __future__ import annotations

from timbr_wamp.codecs.base import Codec
from timbr_wamp.codecs.registry import codec_of, form_of, register_codec

__all__ = ["Codec", "codec_of", "form_of", "register_codec"]
