"""The guide: the Markdown pages of `app/docs`, for `llm-train help` and at `/guide`.

    list_topics() → read(topic) → the terminal, or page_of(topic) → a browser

How to add a page:

1. Write `app/docs/TOPIC.md` (Chinese: `app/docs/zh/TOPIC.md`); its first line is `# Title`.
2. Link it from the README or from another page, relative to `app/docs`.
3. Commands and tables in it that must stay true get a test in `tests/e2e/test_readme.py`.
"""

import html
from pathlib import Path

from app.errors import NotFound

DOCS = Path(__file__).parents[1] / "docs"

_PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{root}/static/guide.css">
</head>
<body>
<nav>{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def list_topics() -> list[str]:
    """Return the names of all pages, English first, such as `recipes` and `zh/concepts`."""
    pages = sorted(DOCS.glob("*.md")) + sorted(DOCS.glob("*/*.md"))
    return [page.relative_to(DOCS).with_suffix("").as_posix() for page in pages]


def read(topic: str) -> str:
    """Return the Markdown of one page. Raise NotFound, which names the pages there are.

    A topic is looked up in the list of pages and never made a path of.
    """
    if topic not in list_topics():
        raise NotFound(f"There is no page {topic!r}; there are: {', '.join(list_topics())}.")
    return (DOCS / f"{topic}.md").read_text("utf-8")


def page_of(topic: str, root: str) -> str:
    """Return one page as HTML. `root` is the path under which a proxy serves the service.

    Raise NotFound for a topic that is none.
    """
    from markdown_it import MarkdownIt  # few servers are asked for it

    text = read(topic)
    links = "".join(
        f'<a href="{root}/guide/{name}">{html.escape(_read_title(name))}</a>'
        for name in list_topics()
    )
    return _PAGE.format(
        language="zh" if topic.startswith("zh/") else "en",
        title=html.escape(f"{_read_title(topic)}: LLM Train API"),
        root=root,
        links=links,
        body=MarkdownIt("commonmark", {"html": False}).enable("table").render(text),
    )


def _read_title(topic: str) -> str:
    return read(topic).partition("\n")[0].removeprefix("# ")
