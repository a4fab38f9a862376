"""The README and the pages of the guide, and the code that they show."""

import re

from app.web import guide
from tests.support.server import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PAGES = {"README": README} | {topic: guide.read(topic) for topic in guide.list_topics()}


def block(language: str, heading: str, page: str = "README") -> str:
    """Return the first block of this language under this heading; without one, of the page."""
    section = PAGES[page]
    if heading:
        section = section.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]
