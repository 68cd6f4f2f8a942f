"""HTML that is escaped unless it was made here: text and attribute values cannot become markup."""

import html
import re

# Elements that have no end tag.
_VOID = frozenset({"br", "img", "link", "meta"})
# What HTML does not allow in text: control characters but tab and line ends.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already; everything else is escaped where it is put into HTML."""

    __slots__ = ()


def escape(text) -> Markup:
    """Returns text as HTML; Markup is returned as it is.

    What no HTML file can hold (control characters, halves of surrogate pairs, which file names may
    have) becomes U+FFFD or a question mark.
    """
    if isinstance(text, Markup):
        return text
    text = _FORBIDDEN.sub("\ufffd", str(text))
    return Markup(html.escape(text.encode("utf-8", "replace").decode("utf-8")))


def join(*parts) -> Markup:
    """Returns the parts one after the other, escaped; None is left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children, **attributes) -> Markup:
    """Returns an element.

    Args:
      name: of the element.
      *children: texts, which are escaped, Markup, and None, which is left out.
      **attributes: `class_` is `class`, an underscore is a hyphen; True is an attribute without a
        value, None and False are left out. Values are escaped.
    """
    opening = Markup(f"<{name}{''.join(_format_attribute(*item) for item in attributes.items())}>")
    if name in _VOID:
        return opening
    return join(opening, *children, Markup(f"</{name}>"))


def _format_attribute(name: str, value) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
