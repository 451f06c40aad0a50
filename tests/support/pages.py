"""Tools for tests of HTML pages: their content, their colours, and elements that are too wide in a browser."""

import re
from html.parser import HTMLParser

import numpy as np

# Elements without an end.
_VOID = {"meta", "input", "link", "img", "br", "hr", "wbr"}


class Parsed(HTMLParser):
    """The content of a page.

    Attributes:
        tags: each element with its attributes, in order.
        texts: the text of the page, in order, with the elements around it.
    """

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(source)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self._open), data))

    def text(self, *within):
        """Return the text inside an element."""
        return " ".join(data for around, data in self.texts if all(tag in around for tag in within))

    def with_attribute(self, name):
        return [(tag, attributes[name]) for tag, attributes in self.tags if name in attributes]


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def palettes(source):
    """Return the colours of light mode, dark mode and print."""
    blocks = re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


WIDER = """
((width) => {
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest(".wide, pre") && !element.matches(".wide, pre")) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1)) found.push(element.outerHTML.slice(0, 120));
  }
  if (document.documentElement.scrollWidth > width) found.push("the page scrolls sideways");
  return found;
})(%d)
"""
OPEN_ALL = 'document.querySelectorAll("details").forEach((each) => { each.open = true; })'
